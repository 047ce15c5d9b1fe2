"""An export holds everything, reads back to the same bits, and belongs to whoever imports it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.user_store.models import ADDING
from tests.user_store.samples import ANN, NOW, completion, event, features
from user_store import codec
from user_store.errors import Conflict
from user_store.folding import catch_up
from user_store.sqlite_store import open_sqlite
from user_store.store import UserStore
from user_store.transfer import ImportReceipt, UserExport, export_lines, export_user, import_user, parse_lines
from user_store.types import FeedbackKind, Profile, UserKey

CARA = UserKey("other", "cara")


async def fill(store: UserStore) -> None:
    await store.append_event(event("e1", evidence={"x": features(1, 4)}, reason="good"))
    await store.append_event(event("e2", evidence={"x": features(2, 4)}, kind=FeedbackKind.RATING, value=3.5))
    await store.append_event(event("e3", completion_ids=("c1",), is_pending=True))
    await store.withdraw_event(ANN, "e2")
    await store.attach_evidence(ANN, "e3", {"x": features(3, 4)})
    await store.append_event(event("e4", completion_ids=("c9",), is_pending=True))
    await store.put_profile(ANN, Profile(pins={"formal": 0.3}, bars=frozenset({"lists"})), expected_version=0)
    await store.put_completion(completion("c1", texts=("a", "b")))
    await catch_up(store, ANN, ADDING, now=NOW)


async def lines_of(store: UserStore, key: UserKey) -> list[str]:
    return list(export_lines(await export_user(store, key, now=NOW)))


async def test_an_export_can_be_imported_elsewhere_and_exported_again(store: UserStore, tmp_path: Path) -> None:
    await fill(store)
    lines = await lines_of(store, ANN)
    types = [json.loads(line)["type"] for line in lines]
    assert types == ["profile", "event", "event", "event", "event", "completion", "posterior"]
    target = open_sqlite(tmp_path / "target.db")
    receipt = await import_user(target, CARA, parse_lines(CARA, lines), now=NOW)
    assert receipt == ImportReceipt(events=4, duplicates=0, completions=1, has_posterior=True)
    again = await lines_of(target, CARA)
    assert [line.replace('"cara"', '"ann"') for line in again] == lines
    state, source = await target.get_state(CARA), await store.get_state(ANN)
    assert state.is_current
    assert state.posterior is not None
    assert source.posterior is not None
    assert codec.dump_arrays(state.posterior.arrays) == codec.dump_arrays(source.posterior.arrays)
    assert [one.is_withdrawn for one in await target.read_log(CARA)] == [False, True, False, False]
    assert [one.is_pending for one in await target.read_log(CARA)] == [False, False, False, True]
    await target.close()


async def test_a_second_import_changes_nothing(store: UserStore) -> None:
    await fill(store)
    lines = await lines_of(store, ANN)
    receipt = await import_user(store, ANN, parse_lines(ANN, lines), now=NOW)
    assert (receipt.events, receipt.duplicates, receipt.has_posterior) == (0, 4, False)
    assert await lines_of(store, ANN) == lines


async def test_an_import_joins_what_is_known_and_leaves_the_posterior_to_be_rebuilt(store: UserStore) -> None:
    await fill(store)
    lines = await lines_of(store, ANN)
    await store.append_event(event("own", CARA, evidence={"x": features(9, 4)}))
    receipt = await import_user(store, CARA, parse_lines(CARA, lines), now=NOW)
    assert not receipt.has_posterior
    state = await catch_up(store, CARA, ADDING, now=NOW)
    assert state.posterior is not None
    assert int(state.posterior.arrays["count"]) == 3


async def test_nobody_takes_over_anothers_events(store: UserStore) -> None:
    await fill(store)
    lines = await lines_of(store, ANN)
    with pytest.raises(Conflict, match="another person"):
        await import_user(store, UserKey("acme", "bob"), parse_lines(ANN, lines), now=NOW)
    assert (await store.find_event("acme", "e1")).key == ANN


async def test_a_stale_posterior_is_left_out(store: UserStore) -> None:
    await fill(store)
    await store.append_event(event("e5"))
    assert (await export_user(store, ANN, now=NOW)).posterior is None


async def test_the_unknown_export_an_empty_profile(store: UserStore) -> None:
    lines = await lines_of(store, ANN)
    assert len(lines) == 1
    assert parse_lines(ANN, lines).profile == Profile()
    await import_user(store, ANN, parse_lines(ANN, lines), now=NOW)
    assert not (await store.get_state(ANN)).is_known


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2"),
        ("[]", "line 2"),
        ('{"type":"thing"}', "unknown"),
        ('{"type":"event","id":"e1"}', "line 2"),
        ('{"type":"event","id":"e1","kind":"thumb","created_at":0,"is_withdrawn":false,"evidence":{"x":3}}', "line 2"),
        (
            '{"type":"posterior","population":"p","updated_at":0,"arrays":{"x":{"dtype":"O","shape":[],"values":0}}}',
            "O",
        ),
        ('{"type":"profile","format":99}', "format"),
        ('{"type":"completion","arrays":null}', "line 2"),
    ],
)
def test_what_cannot_be_imported_is_named_by_its_line(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_lines(ANN, ["", line])


def test_blank_lines_and_other_peoples_names_are_ignored() -> None:
    exported = UserExport(Profile(), events=(event("e1"),), completions=(completion("c1"),))
    lines = [*export_lines(exported), "", "  "]
    found = parse_lines(CARA, lines)
    assert {found.events[0].key, found.completions[0].key} == {CARA}
    assert codec.event_body(found.events[0]) == codec.event_body(replace(event("e1"), key=CARA))
