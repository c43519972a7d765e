"""The one label that is no token."""

# A position that the loss does not count: padding. torch's cross-entropy ignores it by default.
IGNORE_INDEX = -100
