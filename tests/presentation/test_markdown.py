from __future__ import annotations

from knowsam.presentation.markdown import Markdown, code, plain, table


def test_names_are_no_markup() -> None:
    assert plain("<script>alert(1)</script> & more") == "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more"
    assert plain("![x](http://a.b/c.png)") == "![x\\](http://a.b/c.png)"
    assert plain("[a]: http://a.b") == "[a\\]: http://a.b"
    assert plain("a|b\nc`d`\x1b[2J") == r"a\|b c\`d\`\\x1b[2J"
    assert plain("SAM's difference [95%]") == "SAM's difference [95%]"
    assert plain(Markdown("`a`")) == "`a`"


def test_code_ends_where_it_should() -> None:
    assert code("a`<b>`|c") == "`a'<b>'\\|c`"


def test_cells_of_a_table_stay_in_it() -> None:
    written = table(("a", "b|c"), [("<b>", 1), (code("x"), Markdown("*y*"))], numbers=(1,))
    assert written == "| a | b\\|c |\n| :-- | --: |\n| &lt;b&gt; | 1 |\n| `x` | *y* |\n"
