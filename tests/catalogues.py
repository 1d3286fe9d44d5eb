"""
Extracts the messages of the package, updates the catalogues and compiles them.

    python -m tests.catalogues

``make messages`` runs it after a sentence was added or changed.  New messages appear in each
``.po`` with an empty translation, changed ones keep the old translation and are marked fuzzy:
translate, remove ``#, fuzzy``, run it again.  Stands outside the package, which does without Babel.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from string import Formatter
from typing import Final

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

from urlguard import i18n

ROOT: Final = Path(__file__).parents[1]

# Function → which arguments are messages; "c" is the context.  None: the first and only one.
KEYWORDS: Final = {
    "gettext": None,
    "gettext_noop": None,
    "in_every_language": None,
    "ngettext": (1, 2),
    "ngettext_noop": (1, 2),
    "pgettext": ((1, "c"), 2),
    "npgettext": ((1, "c"), 2, 3),
}
COMMENTS: Final = ("Translators:",)  # comments that begin like this are shown to translators


def main() -> int:
    """Update and compile every catalogue; 1 if a translation is missing, fuzzy or wrong."""
    template = extracted()
    wrong = []
    for language in i18n.LANGUAGES:
        if language == i18n.DEFAULT:
            continue
        path = source(language)
        catalog = read(language) if path.exists() else Catalog(language, domain=i18n.DOMAIN)
        catalog.update(template, update_creation_date=False)
        with path.open("wb") as file:
            write_po(
                file,
                catalog,
                width=100,
                include_lineno=False,
                ignore_obsolete=True,
                sort_by_file=True,
            )
        with i18n.compiled(language).open("wb") as file:
            write_mo(file, catalog)
        wrong += [f"{path.relative_to(ROOT)}: {problem}" for problem in problems(catalog)]
    print("\n".join(wrong) or f"{len(template)} messages, all translated")
    return 1 if wrong else 0


def source(language: str) -> Path:
    """The path of a language's catalogue, in the form that people edit."""
    return i18n.compiled(language).with_suffix(".po")


def read(language: str) -> Catalog:
    """The catalogue of a language; what Babel raises for a malformed one passes through."""
    with source(language).open("rb") as file:
        return read_po(file, locale=language, domain=i18n.DOMAIN, abort_invalid=True)


def extracted() -> Catalog:
    """The messages in the package's source, without translations."""
    template = Catalog(domain=i18n.DOMAIN)
    for name, line, message, comments, context in extract_from_dir(
        ROOT / "urlguard",
        method_map=[("**.py", "python")],
        keywords=KEYWORDS,
        comment_tags=COMMENTS,
    ):
        template.add(
            message,
            locations=[(f"urlguard/{name}", line)],
            auto_comments=comments,
            context=context,
        )
    return template


def problems(catalog: Catalog) -> list[str]:
    """What stops a catalogue from use: translations that are missing, fuzzy, or misfilled."""
    found = []
    for message in catalog:
        if not message.id:
            continue
        translated = _texts(message.string)
        if not all(translated):
            found.append(f"{message.id!r}: no translation")
        elif message.fuzzy:
            found.append(f"{message.id!r}: the translation is fuzzy")
        else:
            found += [
                f"{message.id!r}: the translation has the placeholders {sorted(theirs)}"
                for theirs in map(placeholders, translated)
                if theirs != placeholders(_texts(message.id)[-1])
            ]
    return found


def placeholders(text: str) -> set[str]:
    """The names in braces; how a value is formatted may differ between languages."""
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


def _texts(one: str | Sequence[str]) -> list[str]:
    return [one] if isinstance(one, str) else list(one)


if __name__ == "__main__":
    sys.exit(main())
