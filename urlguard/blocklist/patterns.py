"""
Patterns: substrings, wildcards, keywords and URL paths, all found in one Aho–Corasick pass.

What a pattern may say, in its canonical form:

    *paypal*                    a substring of the name, anywhere
    pay-*-verify.example        a wildcard; without a star at its start it begins at a label's
                                start, without one at its end it ends with the name.  A star
                                stands for any characters, none included, but never for a dot.
    keyword:paypal              a whole word: between dots, hyphens, underscores or the name's ends
    /wp-content/*/login.php     a URL path, from its start to its end; a star may span slashes
    */secure/*.php              a URL path whose start is free
    *.example/secure/*          host and path of a URL

Patterns with a slash look at URLs only, all others at host names (also a URL's).

How it works.  Every pattern owns at least one literal of four or more characters.  The automaton
holds each pattern's longest literal and runs once over ``.name.`` or over the canonical URL; a
literal that is found nominates its patterns, and only then does the pattern itself decide, as a
regular expression compiled when it is first nominated.  Cost: one C call that yields nothing for
almost every name.  The automaton is built in the compile step and loaded by workers; patterns that
came later live in a second, small one.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import ahocorasick

from urlguard.errors import SnapshotError
from urlguard.pattern_syntax import KEYWORD, _longest_literal


class Pattern:
    """One canonical pattern, ready to decide."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.on_url = "/" in text
        self.literal = _longest_literal(text)
        # Within a tier the most specific wins; for patterns that is the one that spells out most.
        self.specificity = len(text.removeprefix(KEYWORD).replace("*", ""))

    def matches(self, subject: str) -> bool:
        """True if the pattern fits `subject`: ``.name.`` or a URL without its scheme."""
        return self._regex.search(subject) is not None

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        if self.text.startswith(KEYWORD):
            word = re.escape(self.text.removeprefix(KEYWORD))
            return re.compile(rf"(?<=[._-]){word}(?=[._-])")
        if self.on_url:
            return re.compile(_url_regex(self.text), re.DOTALL)
        start = "" if self.text.startswith("*") else r"\."
        end = "" if self.text.endswith("*") else r"\.\Z"
        return re.compile(start + _glob(self.text.strip("*"), "[^.]") + end)


def _url_regex(text: str) -> str:
    """A pattern over ``host/path?query``; see the module's table."""
    host, _, path = text.partition("/")
    start = r"\A"
    if not host:
        start += "[^/]*"
    elif host == "*":
        start += ".*?"
    elif host.startswith("*"):
        start += _glob(host.lstrip("*"), "[^/]", before="[^/]*?")
    else:
        start += _glob(host, "[^/]", before=r"(?:[^/]*?\.)??")
    # Without a star at its end a path ends where the pattern does, but any query may follow.
    end = "" if path.endswith("*") else r"\Z" if "?" in path else r"(?:\?.*)?\Z"
    if host == "*":
        return _glob("/" + path.rstrip("*"), ".", before=start) + end
    return start + _glob("/" + path.rstrip("*"), ".") + end


def _glob(text: str, star: str, before: str = "") -> str:
    """
    A regular expression for `before` and literals between stars, where a star is any run of `star`.

    All but the last literal are atomic: the earliest place for one leaves the most room for the
    rest, so going back could find nothing new, and the cost stays linear in the subject.
    """
    first, *rest = (re.escape(part) for part in text.split("*"))
    if not rest:
        return before + first
    middle = "".join(f"(?>{star}*?{part})" for part in rest[:-1])
    return f"(?>{before}{first}){middle}{star}*?{rest[-1]}"


class PatternSet:
    """Patterns with their automaton; immutable."""

    def __init__(
        self, texts: Sequence[str], automaton: "ahocorasick.Automaton | None" = None
    ) -> None:
        """Patterns in canonical form; without an automaton, one is built (0.7 ms for 1,000)."""
        self.texts = texts
        self._patterns = [Pattern(text) for text in texts]
        self._by_literal: list[list[Pattern]] = []
        literals: dict[str, int] = {}
        for pattern in self._patterns:
            number = literals.setdefault(pattern.literal, len(literals))
            if number == len(self._by_literal):
                self._by_literal.append([])
            self._by_literal[number].append(pattern)
        self._automaton = automaton if automaton is not None else build(literals)

    def __len__(self) -> int:
        return len(self._patterns)

    def matching(self, subject: str, on_url: bool = False) -> list[Pattern]:
        """The patterns of one sort that fit `subject`: ``.name.``, or a URL without its scheme."""
        if not self._patterns:
            return []
        nominated = {number for _, number in self._automaton.iter(subject)}
        return [
            pattern
            for number in nominated
            for pattern in self._by_literal[number]
            if pattern.on_url is on_url and pattern.matches(subject)
        ]

    def save(self, folder: Path) -> list[Path]:
        """
        Write the patterns and their automaton.

        Raises:
            OSError: the disk is full or not writable.
        """
        text_path, automaton_path = folder / "patterns.txt", folder / "patterns.ac"
        text_path.write_text("".join(f"{t}\n" for t in self.texts), encoding="ascii")
        if not self._patterns:
            return [text_path]
        try:
            self._automaton.save(str(automaton_path))
            # The library does not look whether its last block was written; reading it back does.
            ahocorasick.load(str(automaton_path), _no_objects)
        except (SystemError, ValueError) as exc:
            raise OSError(f"{automaton_path.name}: not written whole: {exc}") from exc
        return [text_path, automaton_path]

    @classmethod
    def load(cls, folder: Path) -> "PatternSet":
        """
        Read what `save` wrote.

        Raises:
            SnapshotError: a file is missing or broken.
        """
        try:
            texts = (folder / "patterns.txt").read_text(encoding="ascii").splitlines()
            if not texts:
                return cls(())
            # The numbers of literals are stored as plain integers: nothing is unpickled.
            return cls(texts, ahocorasick.load(str(folder / "patterns.ac"), _no_objects))
        except (OSError, ValueError) as exc:
            raise SnapshotError(f"{folder.name}/patterns: {exc}") from exc


def build(literals: Iterable[str]) -> "ahocorasick.Automaton":
    """An automaton that reports each literal's position in `literals`."""
    automaton = ahocorasick.Automaton(ahocorasick.STORE_INTS)
    for number, literal in enumerate(literals):
        automaton.add_word(literal, number)
    automaton.make_automaton()
    return automaton


def _no_objects(data: bytes) -> object:
    raise SnapshotError("patterns.ac: holds objects; must hold numbers only")
