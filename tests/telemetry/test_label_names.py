from ratelimitd.telemetry.label_names import MAX_LENGTH, OTHER, LabelNames, label_text, without_user_ids


def test_a_name_keeps_its_label_when_others_follow() -> None:
    names = LabelNames(2)
    assert [names.label(name) for name in ("a", "b", "c", "a", "c")] == ["a", "b", OTHER, "a", OTHER]


def test_a_label_has_no_character_that_is_not_printable() -> None:
    assert label_text("a\n\x00\u202e\udcff") == r"a\n\u0000\u202e\udcff"
    assert label_text('</script>" \\ ü') == '</script>" \\ ü'


def test_a_long_name_is_cut() -> None:
    assert label_text("x" * MAX_LENGTH) == "x" * MAX_LENGTH
    for long in ("x" * 1_000_000, "\x00" * MAX_LENGTH):
        assert len(label_text(long)) == MAX_LENGTH
        assert label_text(long).endswith("…")


def test_the_overrides_of_a_kind_share_a_name() -> None:
    counts = {"overrides.users.alice": 4, "overrides.users.a.b": 5, "routes[3]": 1, "policy": 2}
    assert without_user_ids(counts) == {"overrides.users": 9, "routes[3]": 1, "policy": 2}
