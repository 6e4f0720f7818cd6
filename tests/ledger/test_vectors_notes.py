"""Notes, checkpoints and cosignatures as others published them.

Sources: the C2SP specifications signed-note, tlog-checkpoint, tlog-cosignature and tlog-proof (c2sp.org, CC BY 4.0);
the tests of golang.org/x/mod/sumdb/note (its keys "PeterNeumann" and "EnochRoot").
"""

import base64
from hashlib import sha256

import pytest

from ledger import keys, notes, proof
from ledger.errors import LedgerError, NoteInvalid, SignatureInvalid
from ledger.keys import PrivateKey
from ledger.notes import Checkpoint, Note, Signature

GO_TEXT = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
)  # fmt: skip
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_SECRET = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
PETER_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
ENOCH_LINE = (
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)
FOO = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
FOO_NOTE = (
    "This is an example message.\n\n"
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
POEM = (
    "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n"
    "— quasimodo.example/salvatore "
    "NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n"
)
SOFA_TEXT = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
SOFA_LOG = (
    "— example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
)
SOFA_WITNESS = (
    "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+"
    "mbIUBkBIfZ+qnA==\n"
)
SOFA = f"{SOFA_TEXT}\n{SOFA_LOG}{SOFA_WITNESS}"


def public_of(vkey: str) -> tuple[str, str, str]:
    """Name, key id and public key of a verifier key."""
    name, key_id, encoded = vkey.split("+", 2)
    key = base64.b64decode(encoded)
    assert key[:1] == b"\x01"
    return name, key_id, key[1:].hex()


def verifies(note: Note, vkey: str) -> bool:
    """Whether the note bears a good plain signature by this key, as signed-note asks."""
    name, key_id, public = public_of(vkey)
    for signature in note.signatures:
        if (signature.name, signature.key_id.hex()) == (name, key_id):
            keys.verify(public, note.text.encode(), signature.blob)
            return True
    return False


@pytest.mark.parametrize("vkey", [PETER, ENOCH, FOO])
def test_published_verifier_keys_are_what_ours_would_be(vkey):
    name, key_id, public = public_of(vkey)
    keys.check_public(public)
    assert notes.log_key_id(name, public).hex() == key_id
    assert notes.vkey(name, public) == vkey


def test_gos_signer_gives_gos_note():
    encoded = base64.b64decode(PETER_SECRET.removeprefix("PRIVATE+KEY+").split("+", 2)[2])
    key = PrivateKey(encoded[1:])
    name, _, public = public_of(PETER)
    assert key.public == public
    line = Signature(name=name, key_id=notes.log_key_id(name, public), blob=key.sign(GO_TEXT.encode()))
    assert Note(text=GO_TEXT, signatures=(line,)).encode().decode() == f"{GO_TEXT}\n{PETER_LINE}"


@pytest.mark.parametrize(("text", "good"), [
    (f"{GO_TEXT}\n{PETER_LINE}{ENOCH_LINE}", (PETER, ENOCH)), (f"{GO_TEXT}\n{ENOCH_LINE}", (ENOCH,)),
    (FOO_NOTE, (FOO,)),
])  # fmt: skip
def test_published_notes_verify_and_keep_their_bytes(text, good):
    note = notes.parse(text.encode())
    assert note.encode() == text.encode()
    assert [verifies(note, vkey) for vkey in (PETER, ENOCH, FOO)] == [vkey in good for vkey in (PETER, ENOCH, FOO)]


def test_a_note_whose_text_has_empty_lines_and_letters_of_all_kinds_keeps_its_bytes():
    note = notes.parse(POEM.encode())
    assert note.text.endswith("\n\ned è subito sera.\n")
    assert (note.signatures[0].name, note.encode()) == ("quasimodo.example/salvatore", POEM.encode())


@pytest.mark.parametrize("text", [
    GO_TEXT, f"{GO_TEXT}\n", f"{GO_TEXT}\n{PETER_LINE[:-1]}", f"\x01{GO_TEXT}\n{PETER_LINE}",
    f"{GO_TEXT}\n{PETER_LINE.replace('PeterNeumann', 'Bad Name')}",
    f"{GO_TEXT}\n{PETER_LINE}Unexpected line.\n", f"{GO_TEXT}\n{PETER_LINE * 101}",
])  # fmt: skip
def test_what_go_calls_malformed_is_refused(text):
    with pytest.raises(NoteInvalid):
        notes.parse(text.encode())
    with pytest.raises(NoteInvalid):
        notes.parse(b"\xff" + f"{GO_TEXT}\n{PETER_LINE}".encode())


def test_what_go_calls_an_invalid_signature_is_refused():
    note = notes.parse(f"{GO_TEXT}\n{PETER_LINE[:60]}ABCD{PETER_LINE[60:]}".encode())
    with pytest.raises(SignatureInvalid):
        verifies(note, PETER)


def test_the_published_checkpoint_is_read_as_it_is_meant():
    note = notes.parse(SOFA.encode())
    root = base64.b64decode("CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=")
    assert notes.checkpoint(note) == Checkpoint(origin="example.com/behind-the-sofa", size=20852163, root=root)
    assert notes.checkpoint(note).text() == SOFA_TEXT
    assert note.encode() == SOFA.encode()


def test_the_published_cosignature_has_our_layout():
    log, witness = notes.parse(SOFA.encode()).signatures
    assert (log.name, log.key_id.hex(), len(log.blob)) == ("example.com/behind-the-sofa", "033de0ae", 64)
    assert (witness.name, witness.key_id.hex()) == ("witness.example.com/w1", "8d66cf3f")
    assert int.from_bytes(witness.blob[:8], "big") == 1679315147
    assert len(witness.blob) == 8 + 64


def test_a_cosignature_of_ours_signs_the_published_message():
    key = PrivateKey(sha256(b"w1").digest())
    line = notes.cosign(f"{SOFA_TEXT}\n{SOFA_LOG}".encode(), "witness.example.com/w1", key, 1679315147)
    message = f"cosignature/v1\ntime 1679315147\n{SOFA_TEXT}".encode()
    whole = notes.combine(f"{SOFA_TEXT}\n{SOFA_LOG}".encode(), [line])
    keys.verify(key.public, message, notes.parse(whole).signatures[-1].blob[8:])
    assert notes.cosigned_at(notes.parse(whole), "witness.example.com/w1", key.public) == 1679315147
    id_of = sha256(b"witness.example.com/w1\n\x04" + bytes.fromhex(key.public)).digest()[:4]
    assert notes.witness_key_id("witness.example.com/w1", key.public) == id_of


def test_a_time_beyond_what_the_specification_allows_is_refused():
    key = PrivateKey(sha256(b"w1").digest())
    head = f"{SOFA_TEXT}\n{SOFA_LOG}".encode()
    message = f"cosignature/v1\ntime {2**63}\n{SOFA_TEXT}".encode()
    blob = (2**63).to_bytes(8, "big") + key.sign(message)
    line = Signature(name="w1", key_id=notes.witness_key_id("w1", key.public), blob=blob).line()
    with pytest.raises(NoteInvalid, match=r"2\^63-1"):
        notes.cosigned_at(notes.parse(head + line), "w1", key.public)


def test_a_tlog_proof_has_the_published_lines():
    path = ["gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=", "B95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA="]
    text = "\n".join(["c2sp.org/tlog-proof@v1", "extra YWdl", "index 73894", *path, "", ""]) + SOFA
    for broken in (
        text.replace("tlog-proof@v1", "tlog-proof@v2"), text.replace("index 73894", "index 073894"),
        text.replace("index 73894", "index -1"), text.replace("extra YWdl", "extra YWdk="),
        text.replace("\n\n", "\n", 1),
        text.replace(path[0], path[0][:-4]), text + "\n", text.replace("index 73894\n", ""),
    ):  # fmt: skip
        with pytest.raises(LedgerError):
            proof.parse(broken.encode())
