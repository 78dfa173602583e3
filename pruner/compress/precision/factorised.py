"""Word vectors as a product of two smaller matrices (as ALBERT's, Lan et al. 2020), by their singular values."""

from typing import Any

import torch
from torch import Tensor, nn


class FactorisedEmbedding(nn.Module):
    """Words as vectors of ``rank`` numbers [V, E], turned into those that the model reads by a matrix [E, D]."""

    def __init__(self, words: int, rank: int, width: int, padding_idx: int | None = None) -> None:
        super().__init__()
        self.words = nn.Embedding(words, rank, padding_idx)
        self.widen = nn.Linear(rank, width, bias=False)

    @classmethod
    def of(cls, embedding: nn.Embedding, rank: int) -> "FactorisedEmbedding":
        """Keep the ``rank`` largest singular values of an embedding: no other product of that rank is nearer."""
        u, s, v = torch.linalg.svd(embedding.weight.detach().float(), full_matrices=False)
        made = cls(embedding.num_embeddings, rank, embedding.embedding_dim, embedding.padding_idx)
        made.words.weight = nn.Parameter(u[:, :rank] * s[:rank].sqrt())
        made.widen.weight = nn.Parameter((s[:rank].sqrt()[:, None] * v[:rank]).t().contiguous())
        return made

    @property
    def weight(self) -> Tensor:
        """The vectors that it stands for."""
        return self.words.weight @ self.widen.weight.t()

    def forward(self, ids: Tensor) -> Tensor:
        return self.widen(self.words(ids))


def factorise(model: Any, rank: int) -> Any:
    """Factorise the word vectors of a BERT classifier, in place; its config says so."""
    tables = model.bert.embeddings
    tables.word_embeddings = FactorisedEmbedding.of(tables.word_embeddings, rank).to(model.device)
    model.config.embedding_rank = rank
    return model


def factorised_init(model: Any) -> None:
    """Give a model that has just been built of its config the embedding that ``embedding_rank`` says."""
    rank, config = getattr(model.config, "embedding_rank", None), model.config
    if rank is None:
        return
    if not isinstance(rank, int) or not 1 <= rank <= config.hidden_size:
        raise ValueError(f"embedding_rank: {rank!s:.60} is none from 1 to hidden_size {config.hidden_size}")
    tables = model.bert.embeddings
    tables.word_embeddings = FactorisedEmbedding(config.vocab_size, rank, config.hidden_size, config.pad_token_id)
