"""What names an application, and what doesn't. What can't be loaded: see `tests/test_cli.py`."""

from __future__ import annotations

import pytest

from hypoll.deploy.loading import AppError, load


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("no_such_module", "doesn't name an application: give MODULE:ATTRIBUTE, as in app:routes"),
        ("no.such.module", "doesn't name an application: give MODULE:ATTRIBUTE, as in app:routes"),
        (":routes", "give MODULE:ATTRIBUTE"),
        ("app:", "give MODULE:ATTRIBUTE"),
        ("app:routes:more", "give MODULE:ATTRIBUTE"),
        (".app:routes", "give MODULE:ATTRIBUTE"),
        ("app.py:routes", "'app.py:routes' names a file, not a module: give app:routes"),
        ("apps/app.py", "names a file, not a module: give app:routes with --app-dir apps"),
    ],
)
def test_what_is_no_reference_is_told(reference, words):
    with pytest.raises(AppError) as caught:
        load(reference)
    assert words in str(caught.value)
    assert caught.value.exit_code == 2
