"""Translations: complete catalogues, placeholders, the choice of a language, who imports them."""

import gettext
import io
import subprocess
import sys

import pytest
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo

from tests import catalogues
from urlguard import i18n

TRANSLATED = [language for language in i18n.LANGUAGES if language != i18n.DEFAULT]


def contents(catalog):
    """Everything in a compiled catalogue but its header, which has times and versions."""
    return {key: text for key, text in catalog._catalog.items() if key}


# -- the catalogues --------------------------------------------------------------------------------


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_catalogue_has_every_message_of_the_code_and_no_other(language):
    """
    Stale catalogues fail: run ``make messages``.
    """
    keys = [
        {(message.context, message.id) for message in catalog if message.id}
        for catalog in (catalogues.extracted(), catalogues.read(language))
    ]
    assert len(keys[0]) > 200
    assert keys[0] == keys[1]


@pytest.mark.parametrize("language", TRANSLATED)
def test_every_message_is_translated_with_the_same_placeholders(language):
    """
    None is missing, fuzzy, or has a placeholder more or less than the English one.
    """
    assert catalogues.problems(catalogues.read(language)) == []


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_compiled_catalogue_is_what_its_source_says(language):
    """
    The ``.mo`` file in the repository was made from the ``.po`` file beside it.
    """
    file = io.BytesIO()
    write_mo(file, catalogues.read(language))
    file.seek(0)
    fresh = gettext.GNUTranslations(file)
    assert contents(i18n.translations(language)) == contents(fresh)


@pytest.mark.parametrize(
    ("message", "translation", "flags", "problem"),
    [
        ("{n} names", "{n}个域名", (), None),
        ("some {n:,} names", "约{n}个域名", (), None),
        (("{n} name", "{n} names"), ("{n}个域名",), (), None),
        (("one name", "{n} names"), ("{n}个域名",), (), None),
        ("{n} names", "", (), "no translation"),
        (("{n} name", "{n} names"), ("",), (), "no translation"),
        ("{n} names", "{n}个域名", ("fuzzy",), "fuzzy"),
        ("{n} names", "个域名", (), "placeholders"),
        ("{n} names", "{count}个域名", (), "placeholders"),
        ("names", "{n}个域名", (), "placeholders"),
        (("{n} name", "{n} names"), ("个域名",), (), "placeholders"),
    ],
)
def test_what_is_wrong_with_a_translation_is_found(message, translation, flags, problem):
    """
    The check of the catalogues can fail.
    """
    catalog = Catalog("zh")
    catalog.add(message, translation, flags=flags)
    found = catalogues.problems(catalog)
    assert len(found) == (problem is not None)
    assert all(problem in one for one in found)


def test_a_changed_message_becomes_fuzzy():
    """
    An old translation is kept for review, and is not compiled meanwhile.
    """
    catalog, template = Catalog("zh"), Catalog()
    catalog.add("{n} names are blocked", "{n}个域名已拦截")
    template.add("{n} names were blocked")
    catalog.update(template)
    assert "fuzzy" in catalogues.problems(catalog)[0]
    file = io.BytesIO()
    write_mo(file, catalog)
    file.seek(0)
    assert gettext.GNUTranslations(file).gettext("{n} names were blocked").startswith("{n} names")


# -- translations ----------------------------------------------------------------------------------


def test_english_is_the_message_itself():
    """
    No catalogue is read; plural forms are those of English.
    """
    english = i18n.translations("en")
    assert english.gettext("not in any catalogue") == "not in any catalogue"
    assert [english.ngettext("{n} name", "{n} names", n) for n in (0, 1, 2)] == [
        *("{n} names", "{n} name", "{n} names")
    ]


def test_chinese_has_one_plural_form_and_contexts():
    """
    The number makes no difference; one English text has two translations where contexts differ.
    """
    chinese = i18n.translations("zh")
    forms = {
        chinese.ngettext("{n} digit in the label", "{n} digits in the label", n) for n in range(3)
    }
    assert forms == {"域名主体含{n}个数字"}
    assert chinese.pgettext("ahead", "nothing") == "没有内容"
    assert chinese.gettext("nothing") == "nothing"  # only translated in its context
    assert chinese.gettext("not in any catalogue") == "not in any catalogue"


def test_a_catalogue_is_read_once():
    """
    Later calls return the same object.
    """
    assert i18n.translations("zh") is i18n.translations("zh")


@pytest.mark.parametrize("language", ["", "de", "zh-TW", "../zh", "ZH"])
def test_other_languages_are_refused(language):
    """
    Only what `negotiate` returns is accepted, so no text from outside becomes a path.
    """
    with pytest.raises(ValueError, match="must be one of en, zh"):
        i18n.translations(language)


def test_a_message_in_every_language():
    """
    By language, with placeholders filled.
    """
    assert i18n.in_every_language("{n} other features together", n=7) == {
        "en": "7 other features together",
        "zh": "其余7项特征合计",
    }


# -- the choice of a language ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "language"),
    [
        (None, "en"),
        ("", "en"),
        ("en", "en"),
        ("zh", "zh"),
        ("ZH-cn", "zh"),
        ("zh-Hant-TW", "zh"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-GB, en;q=0.9, zh;q=0.8", "en"),
        ("en;q=0.5, zh", "zh"),
        ("zh;q=0.5, en;q=0.5", "zh"),  # of two equal ones, the first
        ("fr, zh;q=0.2", "zh"),
        ("fr, de;q=0.7", "en"),
        ("*", "en"),
        ("fr, *;q=0.1", "en"),
        ("*, zh;q=0.1", "en"),
        ("en;q=0, *", "zh"),
        ("en;q=0", "en"),  # nothing else is wanted either
        ("zh;q=0, zh-TW;q=0.8", "en"),
        ("zh;q=0.0, *", "en"),
        ("zh ; q=0.7 , en;q=0.3", "zh"),
        ("zh;q=1.000", "zh"),
        ("zh;q=1.1, en;q=0.1", "en"),  # malformed: ignored
        ("zh;q=x", "en"),
        ("zh_CN", "en"),
        ("中文, zh", "zh"),
        (",,;q=1,zh", "zh"),
        ("zhongguohua-x", "en"),
        ("x," * i18n.MAX_RANGES + "zh", "en"),
        ("x," * (i18n.MAX_RANGES - 1) + "zh", "zh"),
    ],
)
def test_the_language_of_a_request(field, language):
    """
    Quality first, then order; subtags fall back to their language; what is malformed is ignored.
    """
    assert i18n.negotiate(field) == language


# -- who imports them ------------------------------------------------------------------------------


def test_a_worker_loads_no_translations():
    """
    Neither the module nor a catalogue; `check` loads a catalogue on first use only.
    """
    code = """
import sys
import urlguard.worker.worker
assert "urlguard.i18n" not in sys.modules
assert "babel" not in sys.modules
import urlguard.check
assert urlguard.i18n.translations.cache_info().currsize == 0
assert "babel" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
