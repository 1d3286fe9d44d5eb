"""
What an adversary does to a name that is blocked: mutations that keep the fraud and change the text.

Knows names and what is done to them; knows no model and no threshold.  Used in training, to harden
a model, and in evaluation, to say how much of its recall survives; never at serving.

Each mutation takes a canonical name with a public suffix (or, in `URL_MUTATIONS`, a URL without its
scheme) and a source of randomness, and gives a valid canonical name (or such a URL) that is not the
input.  What a victim reads stays: the words of the registrable label are there still, whole or
disguised.  The same input and the same state of the source give the same result.  A name at the
limits of length is shortened where the mutation adds.
"""

import random
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from urlguard import names
from urlguard.errors import InputError

Mutation = Callable[[str, random.Random], str]


def _listed(words: str) -> list[str]:
    return words.split()


# Letters and what stands for them at a glance, in ASCII and as Unicode that registries take.
_LOOKALIKES = {
    "a": ("4", "а", "à"),
    "b": ("8", "ь"),
    "c": ("с", "ç"),
    "d": ("cl", "ԁ"),
    "e": ("3", "е", "é"),
    "g": ("9", "q"),
    "i": ("1", "l", "і"),
    "l": ("1", "i", "ł"),
    "m": ("rn", "nn"),
    "n": ("ñ", "п"),
    "o": ("0", "о", "ö"),
    "p": ("р",),
    "s": ("5", "ѕ"),
    "t": ("7", "ţ"),
    "u": ("v", "ü"),
    "v": ("u",),
    "w": ("vv",),
    "x": ("х",),
    "y": ("у",),
    "0": ("o",),
    "1": ("l",),
    "5": ("s",),
}

# Endings that cost least or are given away, and those that look respectable.
_SUFFIXES = _listed(
    "com net org info top xyz shop online site club live vip icu cc cn pro app dev store space "
    "fun work click link world life co io me us in ru de co.uk com.cn com.br"
)

# Words that fraudsters add, and the same in pinyin.
_WORDS = _listed(
    "login secure verify account support update online service official help center app pay "
    "bonus claim wallet mobile web portal auth safe alert confirm id anquan denglu kefu guanwang "
    "fuwu zhifu yanzheng"
)

# Words of harmless names: places, trades, institutions.
_BENIGN = _listed(
    "garden school library music history museum kitchen travel weather science college church "
    "hospital community recipes photography bakery farm hotel cycling research journal festival "
    "architecture university association xuexiao yiyuan meishi lvyou"
)

# What stands before hosts of large services.
_PADDING = _listed(
    "www mail static cdn api img assets m secure docs status portal cloud edge files s3 eu us-east "
    "prod web01"
)

_BRANDS = _listed(
    "paypal apple microsoft amazon netflix facebook icbc alipay binance metamask dhl usps"
)

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_DIGITS = "0123456789"


def homoglyph(name: str, rng: random.Random) -> str:
    """
    Swaps one or two signs of the registrable label for ones that look like them: ``paypa1``.

    Costs a new registration a try; in Unicode the registry must take the script, and browsers show
    mixed ones as ``xn--``.
    """
    label, rest = _parts(name)
    places = [at for at, sign in enumerate(label) if sign in _LOOKALIKES]
    if label.startswith("xn--") or not places:
        return digit(name, rng)
    signs = list(label)
    for at in rng.sample(places, min(len(places), rng.choice((1, 1, 2)))):
        signs[at] = rng.choice(_LOOKALIKES[signs[at]])
    return _joined(name, _valid("".join(signs)) or label, rest, rng)


def hyphen(name: str, rng: random.Random) -> str:
    """
    Puts a hyphen into the registrable label, or takes its hyphens out: ``pay-pal``.

    Costs a new registration a try and nothing else; victims hardly see it.
    """
    label, rest = _parts(name)
    if label.startswith("xn--"):
        return word_insertion(name, rng)
    if "-" in label.strip("-") and rng.random() < 0.5:
        changed = label.replace("-", "")
    else:
        at = _inside(label, rng)
        changed = f"{label[:at]}-{label[at:]}"
    return _joined(name, _valid(changed) or label, rest, rng)


def digit(name: str, rng: random.Random) -> str:
    """
    Numbers the registrable label: one to three digits at its end, inside it, or before it.

    Costs a new registration a try; how series are registered in bulk, ``shop01`` to ``shop99``.
    """
    label, rest = _parts(name)
    number = "".join(rng.choice(_DIGITS) for _ in range(rng.randint(1, 3)))
    label = label[: names.MAX_LABEL - len(number)]
    if label.startswith("xn--"):
        return word_insertion(name, rng)
    at = rng.choice((len(label), len(label), len(label), _inside(label, rng), 0))
    return _joined(name, label[:at] + number + label[at:], rest, rng)


def tld_swap(name: str, rng: random.Random) -> str:
    """
    The same label under another ending, ``paypal-login.top`` for ``.xyz``.

    Costs a new registration, a dollar or two for the cheapest endings; the first thing tried after
    a name was blocked.
    """
    suffix = names.suffix(name)
    others = [other for other in _SUFFIXES if other != suffix]
    return _fitted(name.removesuffix(suffix) + rng.choice(others))


def subdomain_padding(name: str, rng: random.Random) -> str:
    """
    Puts one to four labels in front: words of large services, a brand, or ``www.paypal.com``.

    Costs nothing: every name below a registered one is the owner's.  On phones the bar shows only
    the beginning.
    """
    if rng.random() < 0.3:
        front = f"{rng.choice(_PADDING)}.{rng.choice(_BRANDS)}.com"
    else:
        front = ".".join(rng.sample([*_PADDING, *_WORDS, *_BRANDS], rng.randint(1, 4)))
    return _below(name, front)


def word_insertion(name: str, rng: random.Random) -> str:
    """
    Adds a word of trust to the registrable label, with a hyphen or without: ``paypal-secure``.

    Costs a new registration a try, and reads better than the name that was blocked.
    """
    label, rest = _parts(name)
    word = rng.choice(_WORDS)
    joint = rng.choice(("-", "-", ""))
    if label.startswith("xn--"):
        # Nothing can be put to an A-label without decoding it; a label before it does the same.
        return _below(name, word)
    label = label[: names.MAX_LABEL - len(word) - len(joint)]
    return _joined(name, rng.choice((word + joint + label, label + joint + word)), rest, rng)


def random_prefix(name: str, rng: random.Random) -> str:
    """
    A random label in front, another for each victim: ``x7k2q9.paypal-login.xyz``.

    Costs nothing where a wildcard record answers; defeats lists of exact names and caches.
    """
    size = rng.randint(5, 16)
    return _below(name, "".join(rng.choice(_LETTERS + _DIGITS) for _ in range(size)))


def benign_word_stuffing(name: str, rng: random.Random) -> str:
    """
    Dilutes with harmless words, as labels in front or in the registrable label with hyphens.

    Aimed at models that add up words and n-grams.  As labels it costs nothing; in the registrable
    label a registration, and a name that is longer than victims like.
    """
    words = rng.sample(_BENIGN, rng.randint(2, 4))
    label, rest = _parts(name)
    if label.startswith("xn--") or rng.random() < 0.5:
        return _below(name, rng.choice((".", "-")).join(words))
    stuffing = "-".join(words[:2])
    label = label[: names.MAX_LABEL - len(stuffing) - 1]
    both = (f"{stuffing}-{label}", f"{label}-{stuffing}")
    return _joined(name, rng.choice(both), rest, rng)


def brand_in_path(url: str, rng: random.Random) -> str:
    """
    Moves the brand into the path: ``/paypal/login`` below whatever host there is.

    Costs nothing, and frees the host name of everything telling; what is done on hacked sites.

    Args:
        url: without a scheme: host, path, query.
        rng: the source of randomness.
    """
    host, slash, path = url.partition("/")
    host, mark, query = host.partition("?")  # "host?query" has no path
    if mark:
        slash, path = "/", mark + query + slash + path
    word, brand = rng.choice(_WORDS), rng.choice(_BRANDS)
    front = rng.choice((brand, f"{brand}/{word}", f"{brand}-{word}", f"{brand}.com/{word}"))
    return f"{host}/{front}/{path}"


MUTATIONS: Mapping[str, Mutation] = MappingProxyType(
    {
        mutation.__name__: mutation
        for mutation in (
            homoglyph,
            hyphen,
            digit,
            tld_swap,
            subdomain_padding,
            word_insertion,
            random_prefix,
            benign_word_stuffing,
        )
    }
)
"""Mutations of names, by what reports call them."""


def _on_host(mutation: Mutation) -> Mutation:
    def mutate(url: str, rng: random.Random) -> str:
        end = re.search(r"[/?#]|\Z", url).start()  # type: ignore[union-attr]
        return mutation(url[:end], rng) + url[end:]

    mutate.__name__, mutate.__doc__ = mutation.__name__, mutation.__doc__
    return mutate


URL_MUTATIONS: Mapping[str, Mutation] = MappingProxyType(
    {name: _on_host(mutation) for name, mutation in MUTATIONS.items()}
    | {brand_in_path.__name__: brand_in_path}
)
"""Mutations of URLs without a scheme: those of names, done to the host, and `brand_in_path`."""


def _parts(name: str) -> tuple[str, str]:
    """The label that its owner chose, and what follows it: ``("evil", ".co.uk")``."""
    owner = names.registrable(name) or name
    label, dot, rest = owner.partition(".")
    return label, dot + rest


def _joined(name: str, label: str, rest: str, rng: random.Random) -> str:
    """The name with another registrable label; with a number if the label is what it was."""
    owner = names.registrable(name) or name
    if label + rest == owner:
        label = label[: names.MAX_LABEL - 1] + rng.choice([d for d in _DIGITS if d != label[-1]])
    return _fitted(name[: len(name) - len(owner)] + label + rest)


def _inside(label: str, rng: random.Random) -> int:
    """A place inside a label, away from hyphens where it can be."""
    places = [at for at in range(1, len(label)) if "-" not in label[at - 1 : at + 1]]
    return rng.choice(places) if places else len(label)


def _valid(label: str) -> str | None:
    """The label in canonical form, or None if it cannot be one."""
    try:
        return names.canonical(label + ".com").removesuffix(".com")
    except InputError:
        return None


def _fitted(name: str) -> str:
    """The name without as many labels in front as make it too long."""
    while len(name) > names.MAX_NAME:
        name = name.partition(".")[2]
    return name


def _below(name: str, front: str) -> str:
    """A name below `name`; if it would be too long, below one of its parents."""
    while len(front) + 1 + len(name) > names.MAX_NAME:
        name = name.partition(".")[2]
    return f"{front}.{name}"
