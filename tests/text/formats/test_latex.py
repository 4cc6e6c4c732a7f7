"""LaTeX: the words and the formulas as they were put in, and nothing of what only sets them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written import read

from danlu.text.formats.latex import latex_text

PAPER = r"""\documentclass[11pt]{article} % a comment with \begin{document}
\usepackage{amsmath}
\newcommand{\ours}{Danlu\xspace}
\def\R{\mathbb{R}}
\title{On \emph{graphs}\thanks{Nobody} 图论}
\begin{document}
\maketitle
\begin{abstract}
We study $x^2_i$ and \(y\), see~\cite[p.~3]{a,b}. 50\% of it % a comment
 is na\"ive, ``caf\'{e}'' --- \'Etude, G\"odel, \c{c}a, Erd\H{o}s; costs \$5.

中文段落的第一行
接着第二行，\textbf{粗体}与 English 混排。
\end{abstract}
\section[short]{Introduction 引言}\label{sec}
\ours is \ours{}, \textit{new \textbf{and} good}\footnote{A note.}. % gone
\[ E = mc^2 \tag{1} \]
\begin{align}\label{eq}
a &= b \\ % gone
c &= d
\end{align}
\begin{itemize}
  \item one
  \item two: $\R$
\end{itemize}
\input{secret}\include{other}
\begin{figure}[t]\centering\includegraphics[width=\textwidth]{a.png}\caption{A figure.}\label{f}\end{figure}
\begin{tabular}{l|r} a & b \\[2pt] \hline c & d \end{tabular}
\begin{lstlisting}[language=C]
int  a = 5; % kept
  x_1 & y;
\end{lstlisting}
\verb|x_1 \% y| \href{http://a.cn}{a link}, \url{http://b.cn}.
\begin{tikzpicture}\draw (0,0);\end{tikzpicture}
\begin{thebibliography}{9}\bibitem{a} Gone.\end{thebibliography}
\end{document}
after the end"""
TEXT = r"""We study $x^2_i$ and $y$, see. 50% of it is naïve, “café” — Étude, Gödel, ça, Erdős; costs $5.

中文段落的第一行接着第二行，粗体与 English 混排。

Introduction 引言

Danlu is Danlu, new and good (A note.).

$$E = mc^2$$

$$\begin{aligned} a &= b \\ c &= d \end{aligned}$$

- one
- two: $\mathbb{R}$

A figure.

a | b
c | d

```
int  a = 5; % kept
  x_1 & y;
```

`x_1 \% y` a link, http://b.cn."""


def test_a_paper(tmp_path: Path) -> None:
    (tmp_path / "secret.tex").write_text("SECRET")
    for encoding in ("utf-8", "gb18030"):
        path = tmp_path / "paper.tex"
        path.write_bytes(PAPER.replace("\n", "\r\n").encode(encoding))
        rows, said = read(path)
        assert said == []
        assert [row.fields for row in rows] == [{"text": TEXT, "title": "On graphs 图论"}]


def test_a_part_without_a_preamble_and_one_that_only_sets_things_up(tmp_path: Path) -> None:
    assert latex_text("Just $a$ text.\n\n\nAnother  one.") == ("", "Just $a$ text.\n\nAnother one.")
    path = tmp_path / "style.tex"
    path.write_text(r"\documentclass{article}\usepackage{x}\newcommand{\a}[1]{#1}\begin{document}\end{document}")
    assert read(path) == ([], [("bad", "no text")])


WORDS = st.text("abcXYZ 中文，。é", min_size=1, max_size=20).filter(str.strip)
FORMULA = st.text(r"abx+-=^_{}1 ", min_size=1, max_size=12).filter(
    lambda text: text.strip() and text.count("{") == text.count("}")
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS, FORMULA, WORDS), min_size=1, max_size=5))
def test_words_and_formulas_come_back(parts: list[tuple[str, str, str]]) -> None:
    written = "".join(
        rf"\begin{{theorem}} \textbf{{{a}}} % {b}" + f"\n${m}$ " + rf"\emph{{{b}}} \end{{theorem}}" + "\n\n"
        for a, m, b in parts
    )
    found = latex_text(rf"\documentclass{{x}}\begin{{document}}{written}\end{{document}}")[1]
    wanted = ["".join(f"{a}${m}${b}".split()) for a, m, b in parts]
    assert ["".join(paragraph.split()) for paragraph in found.split("\n\n")] == wanted


@pytest.mark.parametrize(
    "source",
    [
        r"\label{" * 20_000, r"\[" * 10_000, "$" * 99_999, r"\begin{align}" * 100_000, "{" * 100_000,
        r"\newcommand{\a}{" * 10_000, r"\cite[{a}" * 10_000, "%" * 100_000, "\n" * 100_000 + "x",
        r"\verb!" * 10_000, r"\def\a{\b\b\b\b\b\b\b\b}\def\b{\c\c\c\c\c\c\c\c}\def\c{\a\a\a\a\a}" + r"\a" * 1000,
        r"\begin{document" * 10_000, r"\title" + " " * 100_000, "\\" * 99_999,
    ],
    ids=lambda source: source[:12],
)  # fmt: skip
def test_nothing_takes_more_time_than_its_length(source: str) -> None:
    start = time.process_time()
    latex_text(source)
    assert time.process_time() - start < 20  # seconds; what grew with the square of the length would take hours


def test_own_commands_are_written_out_in_formulas_too() -> None:
    source = r"""\newcommand{\RR}{\mathbb{R}}\def\eps{\varepsilon}\newcommand{\ball}{B_\eps}\newcommand{\f}[1]{f(#1)}
    \begin{document}令 $x \in \RR^n$，则 $\ball(x) \f{x} < \epsilon$。\[ \loop \]\end{document}"""
    wanted = r"令 $x \in \mathbb{R}^n$，则 $B_\varepsilon(x) \f{x} < \epsilon$。" + "\n\n$$\\loop$$"
    assert latex_text(source)[1] == wanted
    assert len(latex_text(r"\def\a{\a\a}\begin{document}$\a$\end{document}")[1]) < 100
