"""The experiment with embeddings: its numbers by scikit-learn and SciPy, its control, and whom it can be asked of."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import silhouette_score
from sklearn.metrics.pairwise import cosine_distances
from sklearn.neighbors import NearestNeighbors

from gptlab import lab
from gptlab.experiments.base import Section, untrained
from gptlab.experiments.embeddings import chosen, occurrences, page, positions
from gptlab.lens import embeddings
from gptlab.run import Run
from tests.experiments.conftest import conducted, texts


def beyond(x: Any) -> Any:
    return x.detach().numpy() - x.detach().numpy().mean(0)


def data_of(folder: Path) -> dict[str, Any]:
    """What the page knows."""
    html = (folder / "embeddings.html").read_text(encoding="utf-8")
    found = re.search(r"^const DATA = (.*);$", html, re.MULTILINE)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_letters_and_positions(of_kind: Any) -> None:
    """Numbers of a model of letters, before and after training: of groups by scikit-learn, of positions by SciPy; the
    page's neighbours are the nearest ones."""
    loaded = of_kind("chars")
    section = conducted(loaded, "embeddings")
    models = {"before": untrained(loaded).model, "after": loaded.model}
    names, index = embeddings.groups(loaded.tokenizer)
    groups, _ = chosen(loaded, ())
    kept = groups.ids
    index = index[kept]
    [table] = [block for block in section["blocks"] if block["kind"] == "table"]
    rows = {row[0]: row[1:] for row in table["rows"]["en"]}
    sized = [n for n in range(len(names)) if (index == n).sum() > 1]
    data = data_of(loaded.run.section_path("embeddings"))
    assert rows["all"][0] == sum((index == n).sum() for n in sized)
    for column, (when, model) in enumerate(models.items()):
        x = beyond(model.embedding[kept])
        near = NearestNeighbors(metric="cosine", n_neighbors=6).fit(x).kneighbors(return_distance=False)[:, :5]
        assert (np.sort(near) == np.sort(data["tokens"][when]["near"])).mean() > 0.98  # but for ties
        asked = [min(5, (index == group).sum() - 1) for group in index]
        purity = [np.mean(index[some[:n]] == group) for some, n, group in zip(near, asked, index, strict=True) if n]
        assert rows["all"][2 + column] == pytest.approx(100 * np.mean(purity), abs=0.3)
        inside = np.isin(index, sized)
        if inside.all():
            silhouette = silhouette_score(x, index, metric="cosine")
            assert rows["all"][4 + column] == pytest.approx(silhouette, abs=0.006)
    said = texts(section)
    for model in models.values():
        distance = cosine_distances(beyond(model.position.weight))
        i, j = np.triu_indices(len(distance), 1)
        assert f"{spearmanr(j - i, distance[i, j]).statistic:.2f}" in said
    assert data["positions"]["labels"] == [str(i) for i in range(48)]
    assert len(data["tokens"]["labels"]) == len(kept) == len(data["tokens"]["after"]["tsne"])


def test_the_control_is_the_beginning(of_kind: Any) -> None:
    """The untrained model's tables are the run's first snapshot, to the last bit."""
    loaded = of_kind("chars")
    first, own = embeddings.tables(untrained(loaded).model), loaded.run.snapshot(0)
    assert first.positions is not None
    np.testing.assert_array_equal(first.tokens, own["embedding"])
    np.testing.assert_array_equal(first.positions, own["position.weight"])


@pytest.mark.parametrize("kind", ["pieces", "t5", "glm"])
def test_tokens_of_every_kind_of_model(of_kind: Any, kind: str) -> None:
    """Looked at are the tokens that occur in the training text, and special ones, of any architecture."""
    loaded = of_kind(kind)
    groups, kept = chosen(loaded, ())
    counts = occurrences(loaded)
    assert counts is not None and counts.sum() == loaded.run.text["train_tokens"]
    special = range(loaded.tokenizer.vocab_size - len(loaded.tokenizer.specials), loaded.tokenizer.vocab_size)
    assert groups.ids.tolist() == [i for i in range(len(counts)) if counts[i] or i in special]
    assert kept == ("all" if len(groups.ids) == len(counts) else "seen")
    assert len(groups.labels) == len(groups.index) == len(groups.ids)
    few, kept = chosen(loaded, (), 40)
    assert kept == "most" and len(few.ids) == 40
    assert few.counts is not None and few.counts.min() >= np.sort(counts)[-40]


def test_own_groups_of_pieces(of_kind: Any) -> None:
    """Marks are the groups, under their own names in every language; a model without a table of positions says so."""
    loaded = of_kind("pieces")
    section = conducted(loaded, "embeddings", mark=("aeiou", "bcdfg"))
    [table] = [block for block in section["blocks"] if block["kind"] == "table"]
    assert [row[0] for row in table["rows"]["pl"]] == ["aeiou", "bcdfg", "wszystkie"]
    assert "no table of positions" in texts(section) and "(RoPE)" in texts(section, "fr")
    assert data_of(loaded.run.section_path("embeddings"))["own"] is True


def test_a_mark_of_one_token_is_an_error(of_kind: Any) -> None:
    """There is nothing that it could lie near to."""
    with pytest.raises(ValueError, match="two tokens"):
        chosen(of_kind("chars"), ("q",))


@pytest.mark.parametrize("kind", ["t5", "glm"])
def test_positions_of_every_kind_of_model(of_kind: Any, kind: str, tmp_path: Path) -> None:
    """A model without a table is told apart; the page then has tokens alone."""
    loaded = of_kind(kind)
    section = Section("embeddings", tmp_path, "en")
    found = embeddings.tables(loaded.model)
    places = positions(section, loaded, found, found) if found.positions is None else []
    assert found.positions is None and len(section.blocks) == 1 and not places


def test_a_model_from_elsewhere(of_kind: Any, tmp_path: Path) -> None:
    """Without a training there are no counts, and a control that is drawn as GPT-2 was; the first tokens are taken."""
    trained = of_kind("chars")
    run = Run.create(tmp_path / "imported", trained.config, trained.tokenizer)
    run.save_weights(trained.model)
    loaded = lab.load(run.path, device="cpu")
    groups, kept = chosen(loaded, (), 30)
    assert (kept, groups.counts, groups.ids.tolist()) == ("first", None, list(range(30)))
    assert chosen(loaded, ())[1] == "all"
    control = untrained(loaded).model.embedding.detach().numpy()
    assert control.std() == pytest.approx(0.02, rel=0.05)
    assert page(groups, [], [])["tokens"]["counts"] is None
