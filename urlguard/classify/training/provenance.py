"""
Where the rows come from: repositories and licences, and which DGA families are made of words.

Facts and nothing else, as the data's README and the repositories state them; which sources may
train is said by `dataset.NONCOMMERCIAL`.
"""

from typing import Final, NamedTuple


class Source(NamedTuple):
    """A source of rows: where it is published, and under which terms."""

    repository: str
    licence: str


_NONE: Final = "none stated"
_COLLECTION: Final = "hagezi/dns-data-collection"

SOURCES: Final = {
    "openphish": Source("openphish/public_feed", _NONE),
    "phishing.database-new": Source("Phishing-Database/Phishing.Database", "MIT"),
    "deepurlbench": Source("deepinstinct-algo/DeepURLBench", "CC BY-NC 4.0"),
    "gsb-inversion": Source("elliotwutingfeng/Inversion-DNSBL-Blocklists", "CC BY-NC-SA 4.0"),
    "jarelllama": Source("jarelllama/Scam-Blocklist", "GPL-3.0"),
    "scamsniffer": Source("scamsniffer/scam-database", "GPL-3.0"),
    "phishstorm": Source("fcdalgic/GramBeddings (PhishStorm)", "MIT repo; data as published"),
    "gaso": Source("elliotwutingfeng/GlobalAntiScamOrg-blocklist", "BSD-3-Clause"),
    "maltrail": Source("stamparm/maltrail", "MIT"),
    "pdd": Source("ebubekirbbr/pdd", _NONE),
    "polkadot": Source("polkadot-js/phishing", "Apache-2.0"),
    "phishtank-2020": Source(
        "fcdalgic/GramBeddings (PhishTank export 2020-07)", "MIT repo; data as published"
    ),
    "phishing.army-2023": Source(
        "hagezi/dns-data-collection (phishing.army)",
        "MIT collection; list CC BY-NC 4.0 per its site, unverified",
    ),
    "phishing.database-2023": Source("hagezi/dns-data-collection (Phishing.Database)", "MIT"),
    "urlhaus": Source("curbengh/urlhaus-filter; hagezi/dns-data-collection", "CC0 / MIT"),
    "kadhosts": Source("PolishFiltersTeam/KADhosts; hagezi/dns-data-collection", "CC BY-SA 4.0"),
    "dga": Source(
        "baderj/domain_generation_algorithms; andrewaeva/DGA", "GPL-2.0 (first); none stated"
    ),
    "iam-py-test": Source("iam-py-test/my_filters_001", "CC0"),
    "cryptoscamdb": Source("CryptoScamDB/blacklist", _NONE),
    "threatfox": Source(
        "hagezi/dns-data-collection (abuse.ch ThreatFox)",
        "MIT collection; data CC0 per abuse.ch, unverified",
    ),
    "blackbook": Source("hagezi/dns-data-collection (stamparm/blackbook)", "MIT collection"),
    "sinking-yachts": Source(_COLLECTION, "MIT collection"),
    "vn-badsite": Source("hagezi/dns-data-collection (malware-filter)", "MIT collection"),
    "blocklistproject": Source("blocklistproject/Lists", "Unlicense"),
    "discord-antiscam": Source("Discord-AntiScam/scam-links", _NONE),
    "iscx2016": Source("fcdalgic/GramBeddings (ISCX-URL2016)", "MIT repo; data as published"),
    "phishing-filter": Source("hagezi/dns-data-collection (malware-filter)", "MIT collection"),
    "dogino": Source(_COLLECTION, "MIT collection"),
    "discord-phishing-links": Source("nikolaischunk/discord-phishing-links", "MIT"),
    "chongluadao": Source("elliotwutingfeng/ChongLuaDao-Phishing-Blocklist", "BSD-3-Clause"),
    "durablenapkin": Source("durablenapkin/scamblocklist", "MIT"),
    "infinitytec": Source(_COLLECTION, "MIT collection"),
    "deepurlbench-benign": Source("deepinstinct-algo/DeepURLBench", "CC BY-NC 4.0"),
    "dnsmasq-china-list": Source("felixonmars/dnsmasq-china-list", "WTFPL"),
    "cloudflare-radar": Source(
        "MISP/misp-warninglists (Cloudflare Radar top 100k)",
        "none stated; Radar data CC BY-NC 4.0, unverified",
    ),
    "smallweb": Source("kagisearch/smallweb", "MIT"),
    "umbrella": Source(
        "Loughty/Cisco-Umbrella-Top-1M-PiHole-Whitelist (top 100k names, 18 days)", _NONE
    ),
    "ada-kasztp": Source("ada-url/url-various-datasets", "MIT/Apache-2.0"),
    "phishstorm-valid": Source("fcdalgic/GramBeddings (PhishStorm)", "MIT repo; data as published"),
    "v2fly": Source("v2fly/domain-list-community", "MIT"),
    "pdd-legitimate": Source("ebubekirbbr/pdd", _NONE),
    "adguard-cname-trackers": Source(
        "hagezi/dns-data-collection (AdGuard cname-trackers)", "MIT collection"
    ),
    "university-domains": Source("Hipo/university-domains-list", "MIT"),
    "ruanyf-weekly": Source("ruanyf/weekly", _NONE),
    "dotgov": Source("cisagov/dotgov-data", "CC0"),
    "free-programming-books": Source("EbookFoundation/free-programming-books", "CC BY 4.0"),
    "disconnect": Source("disconnectme/disconnect-tracking-protection", "CC BY-NC-SA 4.0"),
    "jdm": Source("jdm-contrib/jdm", "MIT"),
    "twofactorauth": Source("2factorauth/twofactorauth", "MIT"),
    "majestic10k": Source("MISP/misp-warninglists", _NONE),
    "chinese-blogs": Source("timqian/chinese-independent-blogs", "MIT"),
    "awesome-selfhosted": Source("awesome-selfhosted/awesome-selfhosted-data", "CC BY-SA 3.0"),
    "public-apis": Source("public-apis/public-apis", "MIT"),
    "duckduckgo-tds": Source("duckduckgo/tracker-blocklists", "CC BY-NC-SA 4.0"),
    "frogeye-trackers": Source(_COLLECTION, "MIT collection"),
    "iscx2016-benign": Source(
        "fcdalgic/GramBeddings (ISCX-URL2016)", "MIT repo; data as published"
    ),
    "jawz101-subdomains": Source(_COLLECTION, "MIT collection"),
    "tranco10k": Source("MISP/misp-warninglists", _NONE),
}
UNKNOWN: Final = Source("unknown", "unknown")

_FAMILY: Final = "dga-"

# Their names are words or parts of words, one after the other, and have nothing of the look of
# random letters.  Banjori changes the first four letters of a name that is made so.
WORDS: Final = frozenset({"banjori", "matsnu", "ngioweb", "nymaim2", "rovnix", "suppobox"})


def source(name: str) -> Source:
    """What is known of a source; all DGA families are one."""
    return SOURCES.get("dga" if family(name) else name, UNKNOWN)


def family(name: str) -> str:
    """The DGA family whose names a source lists; empty if it lists none."""
    return name.removeprefix(_FAMILY) if name.startswith(_FAMILY) else ""
