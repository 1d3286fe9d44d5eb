"""
The provenance of the rows: repositories and licences, and which DGA families are made of words.

Facts and nothing else, as the data's README and the repositories state them; which sources may
train stands in `dataset.NONCOMMERCIAL`.
"""

from typing import Final, NamedTuple


class Origin(NamedTuple):
    """A source of rows: where it is published, and under which terms."""

    repository: str
    licence: str


_NONE: Final = "none stated"
_COLLECTION: Final = "hagezi/dns-data-collection"

SOURCES: Final = {
    "openphish": Origin("openphish/public_feed", _NONE),
    "phishing.database-new": Origin("Phishing-Database/Phishing.Database", "MIT"),
    "deepurlbench": Origin("deepinstinct-algo/DeepURLBench", "CC BY-NC 4.0"),
    "gsb-inversion": Origin("elliotwutingfeng/Inversion-DNSBL-Blocklists", "CC BY-NC-SA 4.0"),
    "jarelllama": Origin("jarelllama/Scam-Blocklist", "GPL-3.0"),
    "scamsniffer": Origin("scamsniffer/scam-database", "GPL-3.0"),
    "phishstorm": Origin("fcdalgic/GramBeddings (PhishStorm)", "MIT repo; data as published"),
    "gaso": Origin("elliotwutingfeng/GlobalAntiScamOrg-blocklist", "BSD-3-Clause"),
    "maltrail": Origin("stamparm/maltrail", "MIT"),
    "pdd": Origin("ebubekirbbr/pdd", _NONE),
    "polkadot": Origin("polkadot-js/phishing", "Apache-2.0"),
    "phishtank-2020": Origin(
        "fcdalgic/GramBeddings (PhishTank export 2020-07)", "MIT repo; data as published"
    ),
    "phishing.army-2023": Origin(
        "hagezi/dns-data-collection (phishing.army)",
        "MIT collection; list CC BY-NC 4.0 per its site, unverified",
    ),
    "phishing.database-2023": Origin("hagezi/dns-data-collection (Phishing.Database)", "MIT"),
    "urlhaus": Origin("curbengh/urlhaus-filter; hagezi/dns-data-collection", "CC0 / MIT"),
    "kadhosts": Origin("PolishFiltersTeam/KADhosts; hagezi/dns-data-collection", "CC BY-SA 4.0"),
    "dga": Origin(
        "baderj/domain_generation_algorithms; andrewaeva/DGA", "GPL-2.0 (first); none stated"
    ),
    "iam-py-test": Origin("iam-py-test/my_filters_001", "CC0"),
    "cryptoscamdb": Origin("CryptoScamDB/blacklist", _NONE),
    "threatfox": Origin(
        "hagezi/dns-data-collection (abuse.ch ThreatFox)",
        "MIT collection; data CC0 per abuse.ch, unverified",
    ),
    "blackbook": Origin("hagezi/dns-data-collection (stamparm/blackbook)", "MIT collection"),
    "sinking-yachts": Origin(_COLLECTION, "MIT collection"),
    "vn-badsite": Origin("hagezi/dns-data-collection (malware-filter)", "MIT collection"),
    "blocklistproject": Origin("blocklistproject/Lists", "Unlicense"),
    "discord-antiscam": Origin("Discord-AntiScam/scam-links", _NONE),
    "iscx2016": Origin("fcdalgic/GramBeddings (ISCX-URL2016)", "MIT repo; data as published"),
    "phishing-filter": Origin("hagezi/dns-data-collection (malware-filter)", "MIT collection"),
    "dogino": Origin(_COLLECTION, "MIT collection"),
    "discord-phishing-links": Origin("nikolaischunk/discord-phishing-links", "MIT"),
    "chongluadao": Origin("elliotwutingfeng/ChongLuaDao-Phishing-Blocklist", "BSD-3-Clause"),
    "durablenapkin": Origin("durablenapkin/scamblocklist", "MIT"),
    "infinitytec": Origin(_COLLECTION, "MIT collection"),
    "deepurlbench-benign": Origin("deepinstinct-algo/DeepURLBench", "CC BY-NC 4.0"),
    "dnsmasq-china-list": Origin("felixonmars/dnsmasq-china-list", "WTFPL"),
    "cloudflare-radar": Origin(
        "MISP/misp-warninglists (Cloudflare Radar top 100k)",
        "none stated; Radar data CC BY-NC 4.0, unverified",
    ),
    "smallweb": Origin("kagisearch/smallweb", "MIT"),
    "umbrella": Origin(
        "Loughty/Cisco-Umbrella-Top-1M-PiHole-Whitelist (top 100k names, 18 days)", _NONE
    ),
    "ada-kasztp": Origin("ada-url/url-various-datasets", "MIT/Apache-2.0"),
    "phishstorm-valid": Origin("fcdalgic/GramBeddings (PhishStorm)", "MIT repo; data as published"),
    "v2fly": Origin("v2fly/domain-list-community", "MIT"),
    "pdd-legitimate": Origin("ebubekirbbr/pdd", _NONE),
    "adguard-cname-trackers": Origin(
        "hagezi/dns-data-collection (AdGuard cname-trackers)", "MIT collection"
    ),
    "university-domains": Origin("Hipo/university-domains-list", "MIT"),
    "ruanyf-weekly": Origin("ruanyf/weekly", _NONE),
    "dotgov": Origin("cisagov/dotgov-data", "CC0"),
    "free-programming-books": Origin("EbookFoundation/free-programming-books", "CC BY 4.0"),
    "disconnect": Origin("disconnectme/disconnect-tracking-protection", "CC BY-NC-SA 4.0"),
    "jdm": Origin("jdm-contrib/jdm", "MIT"),
    "twofactorauth": Origin("2factorauth/twofactorauth", "MIT"),
    "majestic10k": Origin("MISP/misp-warninglists", _NONE),
    "chinese-blogs": Origin("timqian/chinese-independent-blogs", "MIT"),
    "awesome-selfhosted": Origin("awesome-selfhosted/awesome-selfhosted-data", "CC BY-SA 3.0"),
    "public-apis": Origin("public-apis/public-apis", "MIT"),
    "duckduckgo-tds": Origin("duckduckgo/tracker-blocklists", "CC BY-NC-SA 4.0"),
    "frogeye-trackers": Origin(_COLLECTION, "MIT collection"),
    "iscx2016-benign": Origin(
        "fcdalgic/GramBeddings (ISCX-URL2016)", "MIT repo; data as published"
    ),
    "jawz101-subdomains": Origin(_COLLECTION, "MIT collection"),
    "tranco10k": Origin("MISP/misp-warninglists", _NONE),
}
UNKNOWN: Final = Origin("unknown", "unknown")

_FAMILY: Final = "dga-"

# Their names are words or parts of words, one after the other, and have nothing of the look of
# random letters.  Banjori changes the first four letters of a name that is made so.
WORDS: Final = frozenset({"banjori", "matsnu", "ngioweb", "nymaim2", "rovnix", "suppobox"})


def source(name: str) -> Origin:
    """What is known of a source; all DGA families are one."""
    return SOURCES.get("dga" if family(name) else name, UNKNOWN)


def family(name: str) -> str:
    """The DGA family whose names a source lists; empty if it lists none."""
    return name.removeprefix(_FAMILY) if name.startswith(_FAMILY) else ""
