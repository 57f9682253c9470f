"""The question, and where its answer is read."""

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from model_store.errors import DecoderUnusable
from model_store.rankers.judgement import Judgement, JudgementConfig
from model_store.rankers.ranker import RankRequest
from model_store.rankers.soft_prompt import Slot, SoftPrompt
from model_store.rankers.soft_prompt_model import SoftPromptModel
from tests.model_store.rankers.small_rankers import QUESTION, small_catalog, small_language_model, small_tokenizer


def request(history: list[int]) -> RankRequest:
    return RankRequest(history=np.array(history, dtype=np.int32), candidates=np.empty(0, dtype=np.int32))


def bytes_alone(model: SoftPromptModel) -> SoftPromptModel:
    """The same model with a tokenizer that has learned no words: a blank, then letters."""
    alphabet = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    pieces = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    pieces.pre_tokenizer, pieces.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return SoftPromptModel(model.model, PreTrainedTokenizerFast(tokenizer_object=pieces))


def written(judgement: Judgement, model: SoftPromptModel, prompt: SoftPrompt) -> str:
    return "".join(f"<{p.kind}>" if isinstance(p, Slot) else model.tokenizer.decode([p]) for p in prompt.parts)


def test_the_question_reads_as_it_is_documented() -> None:
    model = bytes_alone(small_language_model())
    judgement = Judgement(JudgementConfig(history=2, title_tokens=40), model, small_catalog())
    user = judgement.user(request([7, 1, 5]), SoftPrompt.of(judgement.words(" It is"), Slot("user", 0)))
    item = judgement.item(3, SoftPrompt.of(Slot("item", 3)))
    # The blank that both answers begin with belongs to the question.
    assert written(judgement, model, user + item) == (
        'The user liked these items: "Title 1 long", "Title 5 long". It is<user> Is the user going to like'
        ' "Title 3 long long long"<item>? Answer: '
    )
    assert [model.tokenizer.decode([i]) for i in judgement.answers.tolist()] == ["N", "Y"]
    assert written(judgement, model, judgement.user(request([]))) == (
        "The user has liked nothing yet. Is the user going to like"
    )


def test_no_question_is_longer_than_is_said() -> None:
    model = small_language_model()
    judgement = Judgement(QUESTION, model, small_catalog())
    longest = max(
        len(judgement.user(request(list(range(first, first + 9)))) + judgement.item(first)) for first in range(20)
    )
    assert longest <= judgement.longest


def test_a_tokenizer_that_cannot_tell_the_answers_apart_is_refused() -> None:
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<pad>": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<pad>")
    judgement = Judgement(QUESTION, SoftPromptModel(small_language_model().model, tokenizer), small_catalog())
    with pytest.raises(DecoderUnusable, match="does not tell Yes from No"):
        _ = judgement.answers
    assert small_tokenizer().get_vocab()["Yes"] == 3
