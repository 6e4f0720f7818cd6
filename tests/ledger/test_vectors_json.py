"""RFC 8785 on what our subset shares with it: strings, integers, arrays, objects with ASCII keys.

Sources: RFC 8785 sections 3.2.2 and 3.2.3 and the test data of its author (cyberphone/json-canonicalization), without
literals, fractions and keys beyond ASCII, which our subset refuses.
"""

import json

import pytest
import rfc8785

from ledger import codec
from ledger.errors import CodecInvalid

CASES = [
    ('"\\u20ac$\\u000F\\u000aA\'\\u0042\\u0022\\u005c\\\\\\"\\/"', '"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'),
    ('{"1": {"f": {"f": "hi","F": 5} ,"\\n": 56},"10": { },"": "empty","a": { },"111": [ {"e": "yes","E": "no" } ],'
     '"A": { } }',
     '{"":"empty","1":{"\\n":56,"f":{"F":5,"f":"hi"}},"10":{},"111":[{"E":"no","e":"yes"}],"A":{},"a":{}}'),
    ('{"Unnormalized Unicode":"A\\u030a"}', '{"Unnormalized Unicode":"A\u030a"}'),
    ('{"\\r": "Carriage Return", "1": "One", "</script>": "Browser Challenge", "\\u007f": "Control\\u007f"}',
     '{"\\r":"Carriage Return","1":"One","</script>":"Browser Challenge","\x7f":"Control\x7f"}'),
    ('["\\u0000","\\u0008","\\u0009","\\u000B","\\u000C","\\u001F","\\uD83D\\uDE02","\\uFB33"]',
     '["\\u0000","\\b","\\t","\\u000b","\\f","\\u001f","\U0001f602","\ufb33"]'),
    ("[56,{\"d\":1,\"10\":\"\",\"1\":[ ]}]", '[56,{"1":[],"10":"","d":1}]'),
    ("9007199254740991", "9007199254740991"),
    ("[ 0 ]", "[0]"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "canonical"), CASES)
def test_the_canonical_form_is_that_of_the_rfc(text, canonical):
    value = json.loads(text)
    assert codec.encode(value) == canonical.encode() == rfc8785.dumps(value)
    assert codec.decode(canonical.encode()) == value


@pytest.mark.parametrize(("text", "canonical"), CASES)
def test_the_other_spelling_is_refused(text, canonical):
    if text != canonical:
        with pytest.raises(CodecInvalid, match="not canonical"):
            codec.decode(text.encode())


@pytest.mark.parametrize("text", [
    '{"peach":"This sorting order","p\u00eache":"is wrong"}', '[333333333.33333329,1E30,4.50,2e-3]',
    "[null,true,false]", "-1", "9007199254740992", "1e2", '{"\\u20ac":"Euro Sign"}', '"\\uDEAD"',
])  # fmt: skip
def test_what_the_rfc_has_beyond_our_subset_is_refused(text):
    with pytest.raises(CodecInvalid):
        codec.decode(text.encode())
