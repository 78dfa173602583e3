"""An independent, slow way to the same logits: the stock model, with dropped tokens masked instead of dropped."""

import math
from decimal import Decimal

import numpy as np
import torch
from transformers import BertForSequenceClassification

from pruner.compress.tokens.scores import Tokens, random_scores


def bert_by_hand(model, ids, types, heads, outputs, neurons, layers=None) -> torch.Tensor:
    """Logits of a sentence [T] in float64, with factors of heads [L, H, T], feed-forwards [L, T], neurons [L, F, T].

    No module of ``transformers`` takes part: only its weights. ``layers`` are those that are run, by default all.
    """
    w = {name: x.double() for name, x in model.state_dict().items()}
    config, length = model.config, len(ids)

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + config.layer_norm_eps).sqrt()
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    table = "bert.embeddings."
    x = w[f"{table}word_embeddings.weight"][ids] + w[f"{table}position_embeddings.weight"][:length]
    x = norm(x + w[f"{table}token_type_embeddings.weight"][types], f"{table}LayerNorm")
    width = config.hidden_size // config.num_attention_heads
    for number in range(config.num_hidden_layers) if layers is None else layers:
        name, contexts = f"bert.encoder.layer.{number}.", []
        for head in range(config.num_attention_heads):
            own = slice(head * width, (head + 1) * width)
            q, k, v = (linear(x, f"{name}attention.self.{part}")[:, own] for part in ("query", "key", "value"))
            context = torch.softmax(q @ k.T / math.sqrt(width), dim=-1) @ v
            contexts.append(context * heads[number, head][:, None])
        attended = linear(torch.cat(contexts, -1), f"{name}attention.output.dense")
        x = norm(attended + x, f"{name}attention.output.LayerNorm")
        inner = linear(x, f"{name}intermediate.dense")
        inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2 * neurons[number].T
        output = linear(inner, f"{name}output.dense") * outputs[number][:, None]
        x = norm(output + x, f"{name}output.LayerNorm")
    return linear(torch.tanh(linear(x[0], "bert.pooler.dense")), "classifier")


def kept_by_rule(tokens: int, rate: float) -> int:
    return max(1, tokens - math.floor(Decimal(str(rate)) * tokens))


def make_inputs(lengths, vocabulary: int, seed: int = 0, width: int | None = None) -> dict[str, torch.Tensor]:
    """Random sentences of the given lengths, padded to ``width`` or the longest."""
    generator = torch.Generator().manual_seed(seed)
    width = width or max(lengths)
    ids = torch.randint(5, vocabulary, (len(lengths), width), generator=generator)
    types = torch.randint(0, 2, (len(lengths), width), generator=generator)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    return {"input_ids": ids * mask, "attention_mask": mask.long(), "token_type_ids": types * mask}


def eager_twin(model) -> BertForSequenceClassification:
    twin = model.unpruned_twin()
    twin.set_attn_implementation("eager")
    return twin


def teacher_scores(model, inputs, method: str) -> list[np.ndarray]:
    """Emission or gradient scores per layer by the stock model's own attentions, states and autograd."""
    output = eager_twin(model)(**inputs, output_attentions=True, output_hidden_states=True)
    if method == "emission":
        to_each = torch.stack([attention.mean(dim=1)[:, 0] for attention in output.attentions]).double()
        return [to_each[layer:].prod(dim=0).detach().numpy() for layer in range(len(to_each))]
    labels = output.logits.argmax(dim=-1)
    loss = torch.nn.functional.cross_entropy(output.logits, labels, reduction="sum")
    gradients = torch.autograd.grad(loss, output.hidden_states[:-1])
    return [gradient.abs().mean(dim=-1).numpy() for gradient in gradients]


def masked_pass(model, inputs) -> tuple[torch.Tensor, list[list[list[int]]]]:
    """Logits and kept positions by layer and sentence, tokens masked out of the stock model's attention."""
    twin, pruning = eager_twin(model), model.pruning
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    batch, width = ids.shape
    alive = mask.bool().clone()
    teachers = {m: teacher_scores(model, inputs, m) for m in ("emission", "gradient") if m in pruning.methods}
    students = iter(model.students)
    hidden = twin.bert.embeddings(ids, inputs["token_type_ids"])
    kept = []
    for index, layer in enumerate(twin.bert.encoder.layer):
        rate, method = pruning.schedule[index], pruning.methods[index]
        minus = torch.zeros(batch, 1, 1, width).masked_fill(~alive[:, None, None], float("-inf"))
        attended, attention = layer.attention(hidden, minus)
        if rate > 0:
            if method in teachers:
                scores = teachers[method][index]
            elif method == "attention":
                scores = (attention * alive[:, None, :, None]).sum(dim=(1, 2)).detach().numpy()
            elif method == "student":
                scores = next(students)(hidden).detach().numpy()
            elif method == "frequency":
                scores = -model.token_counts.numpy()[ids.numpy()]
            elif method == "random":
                scores = random_scores(Tokens(ids, mask.bool(), index, pruning.seed)).numpy()
            else:
                scores = np.tile(np.arange(width) * (1 if method == "tail" else -1), (batch, 1))
            for row in range(batch):
                candidates = [p for p in range(width) if alive[row, p]]
                number = kept_by_rule(len(candidates), rate)
                best = sorted(candidates, key=lambda p, row=row: (p != 0, -scores[row, p], p))[:number]
                alive[row] = torch.tensor([p in best for p in range(width)])
        kept.append([alive[row].nonzero().flatten().tolist() for row in range(batch)])
        if method != "attention":  # there, what is dropped has been attended to and only leaves before the feed-forward
            minus = torch.zeros(batch, 1, 1, width).masked_fill(~alive[:, None, None], float("-inf"))
            attended, _ = layer.attention(hidden, minus)
        hidden = layer.feed_forward_chunk(attended)
    return twin.classifier(twin.bert.pooler(hidden)).detach(), kept
