"""Defanged and obfuscated URLs are restored."""

import pytest

from urlguard.messages.defanging import as_instructed, refanged
from urlguard.messages.normalize import COMMA, LOOSE, PICTURE, SPELLED, TIGHT, normalized

SIGNS = {LOOSE: "{loose}", COMMA: "{comma}", TIGHT: "{tight}", SPELLED: "{spelled}", PICTURE: "*"}


def shown(text):
    """A text with names for the placeholders, which have no shape."""
    return "".join(SIGNS.get(sign, sign) for sign in text.text)


def plain(text):
    return shown(refanged(normalized(text)))


@pytest.mark.parametrize(
    "written",
    [
        *("hxxp://", "hXXp://", "htxp://", "hxtp://", "h**p://", "http[:]//", "http[://]"),
        *("http:\\\\", "http//", "http:/", "http：／／", "ht tp://", "h tt p : // ", "http[:]/ /"),
    ],
)
def test_schemes(written):
    """
    A scheme that was made useless, or whose signs were lost, is one.
    """
    assert plain(f"{written}demo") == "http://demo"
    assert plain(f"{written.replace('p', 'ps', 1)}demo") == "https://demo"


@pytest.mark.parametrize(
    "written",
    [
        *(
            "[.]",
            "(.)",
            "{.}",
            "<.>",
            "【.】",
            "[dot]",
            "(DOT)",
            "[d0t]",
            "(点)",
            "【點】",
            "{dian}",
        ),
        *(" [.] ", " (dot) ", "[ . ]", "[.", ".]", '"."', "“.”", "（.）", "〔点〕"),
    ],
)
def test_dots_in_brackets(written):
    """
    Nothing else is meant by a dot in brackets or quotes.
    """
    assert plain(f"demo{written}com") == "demo.com"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("demo[/]a", "demo/a"),
        ("http[:]//demo", "http://demo"),
        ("a[@]demo", "a@demo"),
        ("a (at) demo", "a@demo"),
        ("三w.demo", "www.demo"),
        ("三个w点demo", "www点demo"),
        ("www demo com", "www.demo.com"),
        ("www，demo，com", "www.demo.com"),
        ("w w w . d e m o . c o m", "www.demo.com"),
        ("w*w*w.d*e*m*o.c*o*m", "www.demo.com"),
        ("d e m o [.] c o m", "demo.com"),
        ("demo.c om", "demo.com"),
        ("demo.co m", "demo.com"),
    ],
)
def test_other_signs(written, meant):
    """
    Slashes, colons and ``@`` in brackets, www in words, letters and endings with gaps.
    """
    assert plain(written) == meant


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("demo dot com", "demo{loose}com"),
        ("demo-dot-com", "demo{loose}com"),
        ("demo d0t com", "demo{loose}com"),
        ("demo . com", "demo{loose}com"),
        ("demo. com", "demo{loose}com"),
        ("demo .com", "demo{loose}com"),
        ("demo☆.☆com", "demo{loose}com"),
        ("demo点com", "demo{spelled}com"),
        ("demo點com", "demo{spelled}com"),
        ("demo 点 com", "demo{spelled}com"),
        ("a点demo点com", "a{spelled}demo{spelled}com"),
        ("demodotcom", "demo{spelled}com"),
        ("t点me/abc", "t{spelled}me/abc"),
        ("demo。com", "demo{tight}com"),
        ("demo·com", "demo{tight}com"),
        ("demo•com", "demo{tight}com"),
        ("demo丶com", "demo{tight}com"),
        ("demo,com", "demo{comma}com"),
        ("demo，cn", "demo{comma}cn"),
    ],
)
def test_dots_in_doubt(written, meant):
    """
    What may be plain language says by its sign what it was.
    """
    assert plain(written) == meant


@pytest.mark.parametrize(
    "text",
    [
        "polkadots.com",
        "demo-dots.com",
        "dotcom-demo.net",
        "a dot, com",
        "https and http",
        "重点 项目",
        "3点开会",
        "yes, common",
        "one, cn",
        "end. Then",
        "i am ok",
        "at (home)",
        "www and demo",
    ],
)
def test_plain_language_stays(text):
    """
    Words that contain such a spelling, and characters that are none, are left alone.
    """
    assert plain(text) == text.lower()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("删除汉字：demo-m汉.c字om", "demo-m.com"),
        ("删除符号 de☆mo.☆com", "demo.com"),
        ("去除汉字 d汉em字o点com", "demo{spelled}com"),
        ("请去掉表情 dem😀o.c😀om", "demo.com"),
        ("remove the emoji: dem😀o.c😀om", "demo.com"),
        ("把#号删了：de#mo.c#om", "demo.com"),
        ("将“%”都去掉：de%mo.c%om", "demo.com"),
        ("去掉~：de~mo.c~om", "demo.com"),
        ("delete the #: de#mo.c#om", "demo.com"),
        ("without ^ de^mo.c^om", "demo.com"),
        ("dem😀o.c😀om", None),
        ("de#mo.c#om", None),
    ],
)
def test_what_a_message_says_itself(text, address):
    """
    What is to be taken out is taken out if the message says so, and only then.
    """
    edited = as_instructed(normalized(text))
    if address is None:
        assert edited is None
    else:
        assert address in shown(edited)
