"""Where URLs and names stand in a message, and what stands there that is none."""

import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from urlguard import names, urls
from urlguard.messages import MAX_FOUND, MAX_TEXT, defanging, find


def items(text):
    return [one.item for one in find(text)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see example.com", ["example.com"]),
        ("see www.Example.COM now", ["www.example.com"]),
        ("http://example.com", ["http://example.com/"]),
        ("https://example.com/A?b=C#d", ["https://example.com/A?b=C"]),
        ("ftp://example.com/a", ["ftp://example.com/a"]),
        ("example.com/a", ["http://example.com/a"]),
        ("example.com?a=1", ["http://example.com/?a=1"]),
        ("example.com and example.org", ["example.com", "example.org"]),
        ("example.com,example.org;example.net", ["example.com", "example.org", "example.net"]),
        ("example.com|example.org", ["example.com", "example.org"]),
        ("example.com。example.org。cn", ["example.com", "example.org"]),
        ("请登录example.com领取", ["example.com"]),
        ("👉example.com👈", ["example.com"]),
        ("поддержка example.ru", ["example.ru"]),
        # Ports, and what is none.
        ("example.com:8443/a", ["http://example.com/a"]),
        ("example.com:8443", ["http://example.com/"]),
        ("example.com: look", ["example.com"]),
        ("example.com:99999", ["example.com"]),
        # Below an ending that no list knows only behind a scheme.
        ("http://login.bank.example/", ["http://login.bank.example/"]),
        ("login.bank.example/", []),
        ("http://build.internal.2", []),
        ("https://localhost/a", []),
        ("http://...", []),
        ("http:// ", []),
    ],
)
def test_urls_and_names(text, found):
    """
    With and without a scheme, by themselves and in a sentence, in canonical form.
    """
    assert items(text) == found


@pytest.mark.parametrize(
    ("text", "stands"),
    [
        ("see http://example.com/a.", "http://example.com/a"),
        ("see http://example.com/a!?", "http://example.com/a"),
        ("(http://example.com/a)", "http://example.com/a"),
        ("(see http://example.com/a_(b))", "http://example.com/a_(b)"),
        ("[http://example.com/a]", "http://example.com/a"),
        ("<http://example.com/a>", "http://example.com/a"),
        ("'http://example.com/a'", "http://example.com/a"),
        ("**http://example.com/a**", "http://example.com/a"),
        ('"example.com", he said', "example.com"),
        ("“example.com”", "example.com"),
        ("【example.com】", "example.com"),
        ("访问http://example.com/a。谢谢", "http://example.com/a"),
        ("访问http://example.com/a，谢谢", "http://example.com/a"),
        ("访问http://example.com/a领取", "http://example.com/a"),
        ("example.com/a.Pay within a day", "example.com/a"),
        ("www.example.com.Please reply", "www.example.com"),
        ("-example.com-", "example.com"),
        ("example.com...", "example.com"),
        # Signs that nobody sees, and those that were not there for a reader.
        ("a exa\u200bmple.com b", "exa\u200bmple.com"),
        ("\ufeffexample.com\u2060", "example.com"),
        ("look: exam[.]example[.]com!", "exam[.]example[.]com"),
        ("wow hxxp://example[.]com/a wow", "hxxp://example[.]com/a"),
        ("即ｅｘａｍｐｌｅ．ｃｏｍ开", "ｅｘａｍｐｌｅ．ｃｏｍ"),
        ("😀 e x a m p l e . c o m 😀", "e x a m p l e . c o m"),
    ],
)
def test_a_place_is_of_the_url_without_the_sentence(text, stands):
    """
    Start and end are of the message as it was sent, without the punctuation about the URL.
    """
    (one,) = find(text)
    assert text[one.start : one.end] == one.text == stands


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("http://bank.example@evil.example/", ["http://evil.example/"]),
        ("https://www.example.com:pass@evil.example/a", ["https://evil.example/a"]),
        ("http://a@b@example.com/", ["http://example.com/"]),
        ("www.example.org@example.com/a", ["http://example.com/a"]),
        ("@www.example.com", ["www.example.com"]),
        # Mail.
        ("ann@example.com", []),
        ("first.last+tag@mail.example.com", []),
        ("mailto:ann@example.com", []),
        ("ann＠example．com", []),
        ("example.com or ann@example.com", ["example.com"]),
        ("ann@example.com example.org", ["example.org"]),
        ("ann [at] example [dot] com", []),
    ],
)
def test_user_information_and_mail(text, found):
    """
    What stands before an ``@`` leads nowhere; without scheme or path the whole is a mailbox.
    """
    assert items(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("http://192.0.2.1", ["http://192.0.2.1/"]),
        ("http://192.0.2.1:8080/a", ["http://192.0.2.1/a"]),
        ("192.0.2.1/a.apk", ["http://192.0.2.1/a.apk"]),
        ("192.0.2.1:8443", ["http://192.0.2.1/"]),
        ("http://[2001:db8::1]/a", ["http://[2001:db8::1]/a"]),
        ("http://3221225985/", ["http://192.0.2.1/"]),
        ("http://0xc0000201/", ["http://192.0.2.1/"]),
        ("http://0300.0.2.1/", ["http://192.0.2.1/"]),
        ("http：//3221225985/", ["http://192.0.2.1/"]),
        ("192.0.2.1", []),
        ("192.0.2.0/24", []),
        ("http://192.0.2.999/", []),
        ("http://12345678901/", []),
        ("2001:db8::1", []),
    ],
)
def test_addresses(text, found):
    """
    An address in any spelling of browsers, if anything says that it is one of the Web.
    """
    assert items(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "run setup.py, then README.md and lib.rs",
        "UserService.java and main.cc",
        "v1.2.3, 4.15.0-generic and 2.0.1",
        "$12.50, 1,234.56 and 20.5%",
        "2024.05.01 at 12.30",
        "e.g. this, i.e. that, U.S.A. vs. U.K.",
        "I went home.Then I slept.so did he",
        "Mr.Li and Dr.Me",
        "ASP.NET",
        "df.info() and foo.bar(baz)",
        "500M.tv",
        "好的。ok。收到",
        "晚上8点vip厅见",
        "有点me time",
        "a red dot is me",
        "Hello,com and x,cn",
    ],
)
def test_plain_language_holds_nothing(text):
    """
    Names of files, versions, prices, dates, abbreviations and sentences without spaces are none.
    """
    assert items(text) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("bücher-example.de", ["bücher-example.de"]),
        ("请访问 中文示例.网址 领取", ["中文示例.网址"]),
        ("请访问示例.公司", ["示例.公司"]),
        ("在www.示例.com看", ["www.示例.com"]),
        ("пример-сайт.рф", ["пример-сайт.рф"]),
        ("xn--fsqp3lt7b0z0d.com", ["示例商城.com"]),
        # A label of several scripts is what it looks like.
        ("ехample.com", ["example.com"]),
        ("example.соm", ["example.com"]),
        ("раураӏ-example.com", ["paypal-example.com"]),
        # What is too long for a label is a sentence.
        ("这是一个很长很长很长很长很长很长的句子.公司", []),
    ],
)
def test_names_in_other_scripts(text, found):
    """
    IDNs are found as such, with or without spaces about them, and look-alikes as the name that
    they imitate.
    """
    assert items(text) == [names.canonical(name) for name in found]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("https://example.com/go?u=https://evil.example/x", 1),
        ("https://example.com/https://evil.example/x", 1),
        ("http://example.com/ahttp://example.org/b", 2),
        ("http://example.com或http://example.org", 2),
        ("https://example.com/a;https://example.org/b", 2),
        ("www.example.com/www.example.org", 1),
    ],
)
def test_urls_within_urls(text, found):
    """
    A URL in a query or path belongs to the one that it stands in; one that is stuck on does not.
    """
    assert len(find(text)) == found


def test_long_messages_and_many_names():
    """
    Of a message so many characters are read, and so many places reported.
    """
    assert items("x" * (MAX_TEXT - 12) + " example.com") == ["example.com"]
    assert items("x" * (MAX_TEXT - 10) + " example.com") != ["example.com"]
    assert items("x" * MAX_TEXT + " example.com") == []
    many = find("".join(f"demo{n}.com " for n in range(MAX_FOUND + 50)))
    assert [one.item for one in many] == [f"demo{n}.com" for n in range(MAX_FOUND)]
    assert len(find("示例.公司 example.com " * MAX_FOUND)) == MAX_FOUND


def test_labels_that_are_too_long_are_none():
    """
    Whatever no host may be called is not reported, and does not hide what follows.
    """
    assert items("a" * 64 + ".com") == []
    assert items("http://" + "a" * 64 + ".com/ example.com") == ["example.com"]
    assert items("a." * 120 + "example.com") == ["a." * 120 + "example.com"]
    assert items("a." * 200 + "b") == []


_pieces = st.sampled_from(
    [
        *"http:// https:// hxxp [.] (dot) dot 点 。 · , ， . .. @ : / // ? # ( ) 《 》".split(),
        *"www w m com cn top vip 😀 ① ａ ｃ ． ß İ 示例 рф".split(),
        *(" ", "\n", "\ud800", "\udfff", "\x00", "\u200b", "\u00ad"),
    ]
)


def consistent(text):
    """The places of a message, after all was checked that holds for every message."""
    found = find(text)
    at = 0
    for one in found:
        assert at <= one.start < one.end <= len(text)
        assert text[one.start : one.end] == one.text
        at = one.end
        if "://" in one.item:
            assert urls.parse(one.item).canonical == one.item
        else:
            assert names.canonical(one.item) == one.item
    return found


@given(st.text(max_size=200))
@example("\ud800.com")
@example("İ.com İ。com")
@example("h" + "\u0334" * 3 + "ttp://a.com")
def test_any_text(text):
    """
    No text makes `find` raise, and what it reports stands in the text, in order.
    """
    consistent(text)


@given(st.lists(_pieces | st.sampled_from(["a", "b-1", "8"]), max_size=40).map("".join))
def test_any_mixture_of_obfuscations(text):
    """
    The same for texts made of what URLs and their obfuscations are made of.
    """
    consistent(text)


@given(st.from_regex(r"[a-z]{3,10}-[0-9]{1,3}\.(com|net|org|top)(/[a-z0-9]{1,9})?", fullmatch=True))
def test_no_obfuscation_hides_a_url(url):
    """
    Wherever a URL stands, and however its dot is written, the same is found.
    """
    plain = items(url)
    assert len(plain) == 1
    for shape in ("点击{}领取", "see {} now", "({})", "http://{}", "【{}】", "{}。"):
        (found,) = items(shape.format(url))
        assert found.removeprefix("http://").rstrip("/") == plain[0].removeprefix("http://")
    for dot in ("[.]", "(dot)", "．", "。", "·", " dot ", "点"):
        assert items(url.replace(".", dot, 1)) == plain


HOSTILE = (
    *("a.", "http://", "@", "w w w ", ".", "点", "[.]", "-", "a点", "dot", "a@", "h**p:", "://"),
    *("a.com/", "http://a.com/(((", "示.", "示.公司", "a-.", "a。", "x . ", "删除", "a.com@", "。"),
    *("🎉.a", "http:/", " dian ", "www d com ", "a,com", "www,", "h t t p", "1.", "()", "a#", "0x"),
)


@pytest.mark.parametrize("unit", HOSTILE)
def test_time_is_linear_in_hostile_messages(unit):
    """
    The longest message of any repetition costs less than a second of the processor.
    """
    for before, after in (("", ""), ("http://", "删除#"), ("a", "."), ("删掉中文", ".com")):
        size = MAX_TEXT - len(before) - len(after)
        text = before + (unit * (size // len(unit) + 1))[:size] + after
        started = time.process_time()
        find(text)
        assert time.process_time() - started < 1, before + unit + after


def test_plain_messages_are_left_after_one_search(monkeypatch):
    """
    Where nothing can be a dot, nothing is read.
    """
    monkeypatch.setattr(defanging, "refanged", lambda text: pytest.fail("was read"))
    assert find("妈，我到家了，别担心！") == []
    assert find("see you tomorrow") == []


@pytest.mark.parametrize(
    "text", ["-.-.-", "o.O.-", "1.2.3.-", "a.b.c.-", "see http://evil.com/x -.-.-", "-.-.- ^_^"]
)
def test_smileys_and_enumerations(text):
    """
    A dot behind which nothing follows is no name, and takes no other with it.
    """
    assert [found.item for found in find(text)] == re.findall(r"http://evil.com/x", text)
