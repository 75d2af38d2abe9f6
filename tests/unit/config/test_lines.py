from __future__ import annotations

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from mirror_sync.config.lines import key_lines

TEXT = """\
# a comment with = and [brackets]
top = 1
"quoted.key" = '''
several = lines
[not.a.table]
'''
dotted.inner."x y" = "a # b"   # c

[table]
list = [
  1, # one = [
  2,
]
after = { a = 1, b = "]" }
text = \"\"\"he said \\"\"\" ] \"\"\"\"

[upstream."git.example:8443"]
token_file = "x"
[[mirror]]
url = "a"
[[mirror]]

url = "b"
[mirror.sub]
deep = 1
[[mirror.more]]
x = 1
"""


def test_every_key_has_its_line() -> None:
    assert tomllib.loads(TEXT)
    lines = key_lines(TEXT)
    assert lines["top",] == 2
    assert lines["quoted.key",] == 3
    assert lines["dotted", "inner", "x y"] == 7
    assert lines["dotted",] == 7
    assert lines["table",] == 9
    assert lines["table", "list"] == 10
    assert lines["table", "after"] == 14
    assert lines["table", "text"] == 15
    assert lines["upstream", "git.example:8443"] == 17
    assert lines["upstream", "git.example:8443", "token_file"] == 18
    assert lines["mirror", 0] == 19
    assert lines["mirror", 0, "url"] == 20
    assert lines["mirror", 1] == 21
    assert lines["mirror", 1, "url"] == 23
    assert lines["mirror", 1, "sub", "deep"] == 25
    assert lines["mirror", 1, "more", 0, "x"] == 27
    assert not any("not" in str(path) for path in lines)


def test_windows_line_ends_count_once() -> None:
    assert key_lines("a = 1\r\n\r\nb = 2\r\n") == {("a",): 1, ("b",): 3}


_VALUES = st.sampled_from(
    [
        "1",
        '"a"',
        "'b'",
        '"""x\ny"""',
        "'''q\n[z]\nk = 1'''",
        "[1,\n 2]",
        "{ a = 1 }",
        '"\\"#"',
        "true",
        '[["a"], # c\n ["b"]]',
    ]
)
_KEYS = st.sampled_from(["a", "b-c", '"d.e"', "'f g'", "h.i"])


@given(st.lists(st.tuples(st.sampled_from(["", "[t1]", "[t2.x]", "[[arr]]", '[q."r.s"]']), _KEYS, _VALUES), max_size=8))
def test_every_leaf_of_any_document_is_found(parts: list[tuple[str, str, str]]) -> None:
    text = "".join(f"{header}\n{key} = {value} # end\n" for header, key, value in parts)
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = key_lines(text)
    rows = text.split("\n")

    def check(node: dict[str, object], path: tuple[str | int, ...]) -> None:
        for key, value in node.items():
            here = (*path, key)
            if here in lines:
                assert key in rows[lines[here] - 1]
            if isinstance(value, dict) and (*here, "a") not in lines and value == {"a": 1}:
                assert here in lines
            elif isinstance(value, dict):
                check(value, here)
            elif isinstance(value, list) and value and isinstance(value[0], dict):
                for index, entry in enumerate(value):
                    check(entry, (*here, index))
            else:
                assert here in lines

    check(tree, ())
