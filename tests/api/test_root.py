"""The page at the root of the API's listener."""

import re

import pytest

from urlguard import i18n
from urlguard.api import root


@pytest.mark.parametrize(
    ("accepted", "language"), [(None, "en"), ("zh-CN, en;q=0.5", "zh"), ("fr", "en")]
)
async def test_the_root_leads_to_the_documentation(http, backend, accepted, language):
    """
    Without a token, in the reader's language, with the headers of every answer; its links lead on.
    """
    headers = {} if accepted is None else {"Accept-Language": accepted}
    async with http.get(f"{backend.base}/", headers=headers) as answer:
        page = await answer.text()
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert answer.headers["Vary"] == "Accept-Language"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Security-Policy"] == root.POLICY
    assert f'<html lang="{language}">' in page
    links = re.findall(r'href="([^"]+)"', page)
    assert "/docs" in links
    for link in links:
        async with http.get(f"{backend.base}{link}") as answer:
            assert answer.status == 200


def test_the_languages_differ():
    """
    Every language has a page of its own, with no script and nothing fetched from elsewhere.
    """
    pages = {root.page(language) for language in i18n.LANGUAGES}
    assert len(pages) == len(i18n.LANGUAGES)
    for page in pages:
        assert "script" not in page
        assert "//" not in page.replace("<!doctype html>", "")
