"""
Decides whether a piece of a message is a host name: ``demo.top`` is, ``main.py`` is not.

Knows names, the public suffix list and what else contains dots in plain language; knows no
messages, and of the context of a piece only what `Written` holds.

How it works.  A name must be below a public suffix of ICANN's, unless a scheme precedes it
(`unlisted`).  Half the short words of English are top-level domains, and so are many file
extensions, so a bare name must look like a host as well: the rules are in `Written.plausible`, one
line each.  Where the dot itself is ambiguous, only suffixes that fraud uses often are accepted, and
those that are also words need further evidence.
"""

import re
from dataclasses import dataclass

from urlguard import names
from urlguard.classify import confusables
from urlguard.errors import InputError
from urlguard.messages.normalize import COMMA, LOOSE, SPELLED, TIGHT

# Suffixes that are accepted behind an ambiguous dot: those that are no words ...
FIRM = frozenset(
    """
    com cn net org xyz cc icu biz io ru tk ml gq pw cf cyou sbs cfd hk tw uk de fr au asia
    mobi kim gg ws
    """.split()
)
# ... and those that are.  From the tables of most abused top-level domains that Spamhaus and
# Interisle publish, and from what is seen in Chinese messages.
SOFT = frozenset(
    """
    top vip info shop site club online store live work link click fun win wang ren ltd co app
    pro tv loan bond buzz rest monster quest lol world life bet space website tech cloud bid
    date men party stream download racing review trade science red ink wiki group fit beauty
    hair skin mom pics autos boats homes finance money cash credit games game gift support
    help center today news video chat dev page art ga
    """.split()
)
_TAKEN_FOR_WORDS = FIRM - {"net", "org", "de", "au", "tw"}

# Words that begin a sentence more often than they end a name.
_STARTERS = frozenset("is it my no so to at am be as by do us je la pm et es".split())

# Endings of files that are top-level domains too; without more evidence the file is meant.
_FILES = frozenset("py sh md pl rs java zip mov ps so pm mk cab pub mm".split())
# Endings of files that fraud uses as well: these are files behind the names that files have.
_SOMETIMES_FILES = frozenset("cc ml cf ai app in am tf st sc ms nc map mo id".split())
_STEMS = frozenset(
    """
    main index test tests setup config configure makefile readme util utils logo banner image
    photo icon module lib app server client aclocal sendmail hello foo bar
    """.split()
)

# What stands before a dot in abbreviations, titles and references.
_ABBREVIATIONS = frozenset(
    """
    mr mrs ms dr prof st no vs etc inc ltd jr sr co corp vol fig art sec ch pp tel fax ext
    dept approx min max est jan feb mar apr jun jul aug sep sept oct nov dec mon tue wed thu
    fri sat sun am pm eg ie cf al ed eds op cit ca ref nr str tab temp avg qty amt misc
    """.split()
)

# Products that are called like a name under net.
_PRODUCTS = frozenset(("asp.net", "vb.net", "ado.net", "ml.net", "paint.net"))

# Words that end or make a sentence: "I went home.Then", "are you ok.me too".  Our own choice of
# the commonest words of messages; a name made of one of them needs a scheme, a path or www.
_WORDS = frozenset(
    """
    you he she it we they me him her us them my your his its our their mine yours this that
    these those who what when where why how which the an and or but if so then than because
    as at by for from in into of off on onto out over to up with about after again all also
    always any back bad be been before being best better big book boy bring busy buy bye call
    came can car care city class close cold come coming cool could cut dad date day days dear
    did dinner do does doing done dont down drink drive early eat else end enough even evening
    ever every everyone everything exam fact family far fast father few file film final find
    fine first five food forever forget four free friday friend friends fun game gave get gift
    girl give go god going gone good got great group guess guy guys had half hand happen happy
    hard has hate have head hear heard heart hello help here hey hi high hold home hope hot
    hour hours house hug idea im is job join joke just keep kid kids kind kiss knew know known
    last late later laugh learn least leave left less let letter life like list little live
    lol long look lost lot lots love low luck lunch mad made make man many matter maybe meal
    mean meet meeting men met mind minute minutes miss mom monday money month more morning
    most mother move movie much mum must name near need never new news next nice night nine no
    nobody none noon nope not note nothing now number ok okay old omg once one only open order
    other ours outside own paid pain part party past pay people phone photo pick place plan
    play please plz point price problem question quick quiet quite ran rather read ready real
    really reason red rest right room run safe said sale same saturday saw say school see seen
    sell send sent seven shall shop short should show shut sick side since sir sister sit site
    six sleep slow some someone something song soon sorry sort start stay still stop story
    street student study stuff such summer sunday sure take taken talk tea team tell ten test
    text thank thanks thing things think thought three through thursday time times tired today
    together told tomorrow tonight too took top town trip true try tuesday turn two type under
    until upon use used very video visit wait waiting walk want wanted was watch water way
    wear wednesday week weekend well went were whatever wife will win winter wish without
    woman won word words work working world worry would wow write wrong wtf ya yeah year years
    yes yesterday yet young yep ktv cd dvd ceo app ppt pdf excel office wifi vip nba kpi hr
    oui non merci si gracias danke ja nein bitte self user obj node item data np os console
    math sys json
    """.split()
)

_measure = re.compile("[0-9]+(?:[kmgt]b?|[ckm]m|kg|ml|l)").fullmatch  # as in 500M, 2kg

# Digits that stand for letters, in an ending that is none as written: ``c0m``.
_AS_LETTERS = str.maketrans("0135", "oles"), str.maketrans("0135", "oies")


def name(host: str) -> str | None:
    """
    The canonical name that a host as written leads to, or None if there can be no such host.

    A label in one script is kept as an IDN.  A label that mixes scripts, which registries refuse
    (ICANN's guidelines for IDNs, version 4, section 14), becomes the ASCII that it resembles; so do
    all labels if only that makes a public suffix.

    Args:
        host: labels with ``.`` between them, in lower case.
    """
    if host.isascii():
        return _below_suffix(host)
    labels = host.split(".")
    if found := _below_suffix(".".join([_seen(label) for label in labels])):
        return found
    if any(char.isascii() and char.isalnum() for char in host):
        looks = confusables.skeleton(host)
        return _below_suffix(looks) if looks.isascii() else None
    return None


def unlisted(host: str) -> str | None:
    """The canonical name of two labels or more below an ending that is on no list, or None."""
    try:
        found = names.canonical(host)
    except InputError:
        return None
    return found if "." in found and found.rpartition(".")[2].isalpha() else None


def _seen(label: str) -> str:
    """A label; in ASCII if it mixes scripts to resemble another."""
    return confusables.skeleton(label) if confusables.mixed(label) else label


def _below_suffix(host: str) -> str | None:
    if "-." in host or ".-" in host:
        return None
    try:
        found = names.canonical(host)
    except InputError:
        return None
    if names.is_icann("x." + found):
        return found if "." in found else None
    before, _, last = found.rpartition(".")
    if last.isalpha() or not any(char.isalpha() for char in before):
        return None
    for table in _AS_LETTERS:
        ending = last.translate(table)
        if ending in FIRM or (ending in SOFT and len(ending) > 2):
            return f"{before}.{ending}"
    return None


@dataclass(frozen=True, slots=True)
class Written:
    """
    How a name is written in a message.

    Attributes:
        name: canonical.
        doubt: the placeholder of `normalize` for its most doubtful dot, or empty.
        path: a path, query or port follows.
        titled: the last label is written Like this.
        sentence: a word in lower case follows after a space.
        called: brackets follow, as after a function.
    """

    name: str
    doubt: str
    path: bool
    titled: bool
    sentence: bool
    called: bool = False

    def plausible(self) -> bool:
        """True if people would take the name for one although no scheme stands before it."""
        suffix, owner = names.split(self.name)
        if owner is None:  # such as s3.amazonaws.com, which hosts other people's pages
            return self.path and "." in suffix
        label = owner.partition(".")[0]
        ending = self.name.rpartition(".")[2]
        word = ending not in _TAKEN_FOR_WORDS
        shaped = "-" in label or any(char.isdigit() for char in label)  # as words are not
        if "_" in owner or self.name in _PRODUCTS or label in _ABBREVIATIONS:
            return False
        if self.name.startswith("www.") and self.name != owner:
            return True
        if label in _WORDS and (self.doubt or (word and ending not in ("net", "org", "cn"))):
            return False
        if self.titled and (word or label in _WORDS):
            return False
        if word and _measure(label):
            return False
        if label.isdigit() and not self._number(label, ending):
            return False
        if self.path:
            return True
        if len(label) == 1 and self.doubt in ("", LOOSE):
            return False
        if ending in _FILES or (ending in _SOMETIMES_FILES and label in _STEMS):
            return False
        if (self.sentence and ending in _STARTERS) or (self.called and word and not shaped):
            return False
        return not self.doubt or self._beyond_doubt(ending, shaped)

    def _number(self, label: str, ending: str) -> bool:
        """A label of digits: 163.com and 8858.top are names, ``8点vip`` and ``3.in`` are not."""
        if self.doubt:
            return len(label) > 2 and ending in ("com", "cn", "net", "org")
        if len(label) < 3:
            return ending in ("com", "cn", "net", "la") and len(label) == 2
        return ending not in _STARTERS and ending not in ("in", "me")

    def _beyond_doubt(self, ending: str, shaped: bool) -> bool:
        """Whether a name is believed although what stood for a dot may have been none."""
        if self.doubt == SPELLED:
            return ending in FIRM or ending in SOFT
        if self.doubt == TIGHT:
            return ending in FIRM or (ending in SOFT and (shaped or self.name.count(".") > 1))
        if self.doubt == COMMA:
            return shaped
        return ending in _TAKEN_FOR_WORDS or (shaped and ending in FIRM | SOFT)
