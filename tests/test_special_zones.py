"""Special-use zones: one list, used by the resolver, the look-ups of cases and the classifier."""

from urlguard.special_zones import SIGNALS, SPECIAL_USE, UNSCORED, ZONES


def test_each_zone_stands_once():
    """
    In canonical form, and with one way to be answered.
    """
    zones = [zone for names, _, _ in ZONES for zone in names]
    assert len(zones) == len(set(zones)) == len(SPECIAL_USE)
    assert all(zone == zone.lower().strip(".") for zone in zones)


def test_a_model_scores_no_name_that_is_answered_here():
    """
    What the resolver answers by itself is no site, so no model scores it; documentation's names and
    all of arpa neither.
    """
    assert SPECIAL_USE < UNSCORED
    assert {name for names in SIGNALS.values() for name in names} < UNSCORED
    assert {"arpa", "example.com", "example.net", "example.org"} < UNSCORED
