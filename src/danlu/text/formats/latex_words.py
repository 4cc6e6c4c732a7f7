"""What LaTeX's commands and environments are to a reader of the text."""

from __future__ import annotations

import unicodedata

MATH = {
    "math": "", "displaymath": "", "equation": "", "dmath": "",
    "align": "aligned", "alignat": "aligned", "flalign": "aligned", "eqnarray": "aligned", "gather": "gathered",
    "multline": "gathered",
}  # fmt: skip
"""Environments of formulas, and what keeps their lines apart between dollar signs."""
DRAWN = {
    "tikzpicture", "pgfpicture", "picture", "pspicture", "thebibliography", "filecontents", "comment", "CCSXML",
    "tikzcd", "forest", "axis",
}  # fmt: skip
"""Environments in which nothing is text."""
WRITTEN = {"verbatim", "Verbatim", "lstlisting", "minted", "alltt"}
"""Environments of code."""
LISTED = {
    "tabular": 1, "tabularx": 2, "tabulary": 2, "longtable": 1, "minipage": 1, "wrapfigure": 2, "multicols": 1,
    "adjustbox": 1, "subfigure": 1, "array": 1, "CJK": 2, "spacing": 1, "adjustwidth": 2, "list": 2, "wraptable": 2,
}  # fmt: skip
"""Arguments of an environment that are no text."""
SPLIT = {
    "part", "chapter", "section", "subsection", "subsubsection", "paragraph", "subparagraph", "caption", "par",
    "title", "author", "newpage", "clearpage", "frametitle", "captionof", "abstract",
}  # fmt: skip
"""Commands whose argument stands on lines of its own."""
_ONE = """
label ref eqref autoref cref Cref pageref nameref vref input include includeonly
bibliography bibliographystyle addbibresource
cite citep citet citealp citealt citeauthor citeyear citeyearpar parencite textcite autocite footcite nocite
onlinecite
includegraphics usepackage RequirePackage documentclass vspace hspace vskip pagestyle thispagestyle color thanks
newcounter stepcounter refstepcounter hypersetup graphicspath index cline cmidrule linespread selectlanguage
usetikzlibrary pagenumbering rowcolor columncolor cellcolor definecolors phantom hphantom vphantom setlist geometry
href textcolor email affiliation institute captionsetup lstset allowdisplaybreaks theoremstyle newboolean fontsize
PACS keywords date subfile import includepdf tikz
"""
_TWO = """
setlength addtolength setcounter addtocounter multicolumn multirow newenvironment renewenvironment newtheorem
DeclareMathOperator colorbox rule newcommand renewcommand providecommand raisebox resizebox scalebox fontsize
"""
TAKEN = dict.fromkeys(_ONE.split(), 1) | dict.fromkeys(_TWO.split(), 2)
TAKEN |= {"newenvironment": 3, "renewenvironment": 3, "definecolor": 3, "scalebox": 1, "raisebox": 1, "colorbox": 1}
"""Commands with so many arguments that are no text; what follows them may be."""
SIGNS = {
    "~": " ", "&": " | ", "--": "–", "---": "—", "``": "“", "''": "”",
    "ldots": "…", "dots": "…", "textellipsis": "…", "quad": " ", "qquad": " ", "space": " ", "newline": "\x1e",
    "textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textbar": "|", "textless": "<",
    "textgreater": ">", "textendash": "–", "textemdash": "—", "textquotedblleft": "“", "textquotedblright": "”",
    "textquoteleft": "‘", "textquoteright": "’", "lq": "‘", "rq": "’", "textbullet": "•", "textdegree": "°",
    "textregistered": "®", "texttrademark": "™", "textcopyright": "©", "copyright": "©", "S": "§", "P": "¶",
    "pounds": "£", "euro": "€", "dag": "†", "ddag": "‡", "LaTeX": "LaTeX", "TeX": "TeX", "BibTeX": "BibTeX",
    "XeLaTeX": "XeLaTeX", "ss": "ß", "o": "ø", "O": "Ø", "l": "ł", "L": "Ł", "ae": "æ", "AE": "Æ", "oe": "œ",
    "OE": "Œ", "aa": "å", "AA": "Å", "i": "ı", "j": "ȷ", "dh": "ð", "th": "þ",
}  # fmt: skip
"""Commands and marks that stand for characters."""
_MARKS = "\u0301\u0300\u0302\u0308\u0303\u0304\u0307\u0327\u030c\u0306\u030b\u0328\u030a\u0323"
_ACCENTS = dict(zip("'`^\"~=.cvuHkrd", _MARKS, strict=True))


def accented(accent: str, letter: str) -> str:
    """A letter under its accent; without a letter there is nothing to write."""
    return unicodedata.normalize("NFC", letter + _ACCENTS[accent]) if letter else ""
