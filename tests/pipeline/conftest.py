"""Fixtures of these tests."""

from __future__ import annotations

from tiny_predictors import tiny_predictor as tiny_predictor
