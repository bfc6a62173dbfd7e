"""Names that a key may have meant, while anybody reads them."""

from palettery.app.planning.suggestions import MAX_SEARCHES, DottedNames


def test_searches_end_where_nobody_reads_on():
    names = DottedNames(["encoder.layer", "decoder.layer"])
    results = [names.similar("encodr.layer") for _ in range(MAX_SEARCHES + 1)]
    assert all(near[0] == "encoder.layer" for near in results[:-1])
    assert results[-1] == ()
