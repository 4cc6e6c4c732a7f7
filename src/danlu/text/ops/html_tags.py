"""The tags that HTML knows, by their form in running text."""

from __future__ import annotations

import re

_BLOCKS = """
address article aside blockquote body br caption center dd details dialog dir div dl dt fieldset figcaption figure
footer form h1 h2 h3 h4 h5 h6 head header hr html li main menu nav ol p pre section summary table tbody td tfoot th
thead tr ul
"""
_INLINE = """
a abbr acronym area audio b base bdi bdo big button canvas cite code col colgroup data del dfn em embed font i iframe
img input ins kbd label legend link map mark meta noscript object optgroup option output param picture q rp rt ruby s
samp script select small source span strike strong style sub sup svg template textarea time title track tt u var video
wbr
"""
_BARE = "async|autofocus|checked|controls|defer|disabled|hidden|multiple|nowrap|readonly|required|reversed|selected"

BLOCKS = frozenset(_BLOCKS.split())
"""Tags that stand on lines of their own."""

_NAMES = "|".join(sorted(BLOCKS | set(_INLINE.split()), key=len, reverse=True))
_VALUE = r"""(?:"[^"<]*"|'[^'<]*'|[^\s"'=<>`]+)"""
_ATTRIBUTE = rf"\s+(?:[a-zA-Z_:@][-\w:.]*\s*=\s*{_VALUE}|(?:{_BARE})(?=[\s/>]))"

TAG = re.compile(rf"<(?P<slash>/)?(?P<name>{_NAMES})(?P<attributes>(?:{_ATTRIBUTE})*)\s*/?>", re.IGNORECASE)
