"""What no published text may hold: passwords, tokens, and paths of a machine."""

from __future__ import annotations

import re

# What is in a URL before the host's @, or signs it; and tokens by how they begin.
_SECRET = re.compile(
    r"""
    ://[^/\s]*@
    | [?&][\w-]*(?i:token|secret|password|signature|sig|credential|key)=[^&\s]
    | (?<![A-Za-z0-9])(?:
        (?:hf|gh[opsur]|npm|api_org)_[A-Za-z0-9]{16} | hf_oauth_ | github_pat_\w{16}
        | sk-(?:(?:proj|ant|or|svcacct|admin)-[\w-]{16} | [A-Za-z0-9]{16})
        | glpat-[\w-]{16} | xox[a-z]-[\w-]{10} | pypi-AgE | A[KS]IA[A-Z0-9]{12}
        | AIza[\w-]{30} | eyJ[\w-]{10,}\.eyJ
    )""",
    flags=re.VERBOSE,
)
# A value that is a path as a whole: /a/b, /a.csv, ~/a, file:///a, C:\a, \\host\a.
_PATH = re.compile(
    r"/[\w.@-]+(?:/|\.\w+(?:@[\d.]+)?$)|~[\w-]*/|file://|[A-Za-z]:[\\/](?![\\/])|\\\\\w"
)
# Paths inside other text, by where people's files are.
_PATH_IN_TEXT = re.compile(
    r"(?<![\w./:-])/(?:home|Users|root|tmp|mnt|media|scratch|workspace|content|kaggle|opt|srv|var)"
    r"/[\w.~-]|file:///|[A-Za-z]:\\+Users\\"
)


def holds_secret(text: str) -> bool:
    """Whether a text holds a token of a common kind, or a password or signature in a URL."""
    return _SECRET.search(text) is not None


def is_local_path(value: str) -> bool:
    """Whether a value is an absolute path of some machine."""
    return _PATH.match(value) is not None


def mentions_local_path(text: str) -> bool:
    """Whether a text names a file below the folders where people keep theirs."""
    return _PATH_IN_TEXT.search(text) is not None
