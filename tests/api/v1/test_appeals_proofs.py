"""Proofs that a domain belongs to whoever appeals."""

import pytest

from urlguard.access.roles import Role
from urlguard.errors import UrlGuardError


async def test_a_perfect_proof_releases_nothing(api):
    """
    A fraudster is in control of his domain: both proofs move his appeal up, and he stays blocked.
    """
    api.say("analyst:ann", "subtree evil.example")
    first = await api.plead("first.example")
    plea = await api.plead("www.evil.example")
    proof = plea["proof"]
    assert proof["txt_name"] == "_urlguard.evil.example"
    assert proof["file_url"] == "https://evil.example/.well-known/urlguard-proof.txt"
    serial = api.log.serial
    api.places.records["evil.example"] = ["v=spf1 -all", proof["txt_value"]]
    api.places.files["evil.example"] = f"{proof['file_text']}\r\n".encode()
    _, looked = await api.ask(None, "POST", f"/v1/appeals/{plea['id']}/check")
    assert (looked["state"], looked["txt"], looked["file"]) == ("proof_seen", "found", "found")
    assert looked["proof"]["seen"] == "txt"
    assert api.log.serial == serial
    assert await api.says("www.evil.example") == ["block"]
    _, page = await api.ask(Role.APPROVER, "GET", "/v1/appeals?state=received")
    assert [a["id"] for a in page["items"]] == [plea["id"], first["id"]]
    _, again = await api.ask(None, "POST", f"/v1/appeals/{plea['id']}/check")
    assert (again["state"], again["txt"], len(api.places.asked)) == ("proof_seen", None, 1)


@pytest.mark.parametrize(
    ("records", "file", "said"),
    [
        ([], None, ("none", "failed", None)),
        (["v=spf1"], b"hello", ("other", "other", None)),
        (UrlGuardError("refused"), b"a\nPROOF", ("failed", "found", "file")),
        (["PROOF"], b"<html>PROOF</html>", ("found", "other", "txt")),
        ([" PROOF "], b"", ("found", "other", "txt")),
        (["xPROOF", "PROOFx"], b"x\n" * 200 + b"PROOF", ("other", "other", None)),
        ([], b"\xff\xfe\r\n  PROOF\t\r\n", ("none", "found", "file")),
    ],
)
async def test_what_is_a_proof(api, records, file, said):
    """
    The whole text of a record, or a whole line among the first of a file.
    """
    plea = await api.plead("shop.example")
    value = plea["proof"]["txt_value"]
    if isinstance(records, list):
        records = [record.replace("PROOF", value) for record in records]
    api.places.records["shop.example"] = records
    if file is not None:
        api.places.files["shop.example"] = file.replace(b"PROOF", value.encode())
    _, looked = await api.ask(None, "POST", f"/v1/appeals/{plea['id']}/check")
    assert (looked["txt"], looked["file"], looked["proof"]["seen"]) == said


async def test_somebody_elses_proof(api):
    """
    What proves one appeal proves no other.
    """
    one, other = await api.plead("a.example"), await api.plead("b.example")
    api.places.records["b.example"] = [one["proof"]["txt_value"]]
    _, looked = await api.ask(None, "POST", f"/v1/appeals/{other['id']}/check")
    assert looked["proof"]["seen"] is None


async def test_a_place_that_lets_wait(api, monkeypatch):
    """
    Whoever does not answer costs some seconds, and nobody else's time.
    """
    monkeypatch.setattr("urlguard.cases.appeal_service.PROOF_S", 0.05)
    api.places.wait_s = 30
    plea = await api.plead("shop.example")
    _, looked = await api.ask(None, "POST", f"/v1/appeals/{plea['id']}/check")
    assert looked["txt"] == "failed"


async def test_an_address(api):
    """
    It can be appealed about and released, and there is nobody to prove anything.
    """
    api.say("analyst:ann", "url 192.0.2.7/pay")
    plea = await api.plead("http://192.0.2.7/pay")
    assert plea["proof"] is None
    assert (await api.ask(None, "POST", f"/v1/appeals/{plea['id']}/check"))[0] == 409
    _, done = await api.judge(Role.APPROVER, plea["id"])
    assert done["rules"] == ["url 192.0.2.7/pay"]
    assert await api.says("http://192.0.2.7/pay") == ["allow"]
