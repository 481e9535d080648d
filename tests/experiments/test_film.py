"""The film of the embeddings: what is drawn, what is written, and what is said."""

import json
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from sklearn.neighbors import NearestNeighbors

from gptlab.experiments import film as filmed
from gptlab.experiments.base import Words
from gptlab.lens.snapshots import motion
from tests.experiments.conftest import conducted

SHORT: dict[str, Any] = {"seconds": 0.4, "fps": 24}


def read(path: Any) -> tuple[dict[str, Any], np.ndarray]:
    """A film by ffmpeg: what it says of itself, and its pictures (N, height, width, 3)."""
    frames = imageio_ffmpeg.read_frames(str(path))
    about = next(frames)
    width, height = about["size"]
    return about, np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in frames])


@pytest.fixture
def made(of_kind: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """made("chars", …): the section of a film, its arrays, its folder, and the pixels that were sent to be written."""

    def make(kind: str, **options: Any) -> tuple[Any, Any, Any, list[np.ndarray]]:
        loaded, drawn = of_kind(kind), []
        picture = filmed.Screen.picture

        def kept(screen: Any, at: float) -> np.ndarray:
            drawn.append(picture(screen, at)[..., :3].copy())
            return picture(screen, at)

        monkeypatch.setattr(filmed.Screen, "picture", kept)
        section = conducted(loaded, "film", **SHORT, **options)
        folder = loaded.run.section_path("film")
        return section, np.load(folder / "film.npz"), folder, drawn

    return make


def test_film_equals_the_snapshots(of_kind: Any, made: Any) -> None:
    """The arrays of the film are the snapshots' tables in the plane, computed again from the files; where the film
    stands at a snapshot, what is drawn has exactly these places; and the MP4 shows what was drawn."""
    lab = of_kind("chars")
    section, data, folder, drawn = made("chars", method="pca", mark=("aeiou", "bcdfghjklmnpqrstvwxyz"))
    steps = lab.run.snapshots()
    assert data["steps"].tolist() == steps and len(steps) == 5
    tables = [load_file(lab.run.path / "snapshots" / f"{step}.safetensors") for step in steps]
    for name, key, rows in (("embedding", "tokens", data["ids"]), ("position.weight", "positions", slice(None))):
        again = np.stack(list(motion([table[name].numpy()[rows] for table in tables], "pca")))
        np.testing.assert_array_equal(data[key], again)

    groups, _ = filmed.chosen(lab, ("aeiou", "bcdfghjklmnpqrstvwxyz"))
    film = filmed.Film(data["steps"], data["tokens"], data["positions"], groups, [12], filmed.losses(lab), "pca")
    screen = filmed.Screen(film, Words("film", "pt"))
    for at in range(len(steps)):
        screen.show(at)
        places = np.full(data["tokens"][at].shape, np.nan)
        for inside, cloud in screen.clouds:
            places[inside] = cloud.get_offsets()
        np.testing.assert_array_equal(places, data["tokens"][at])
        line, points, [(_, ring, _)] = screen.path
        np.testing.assert_array_equal(points.get_offsets(), data["positions"][at])
        np.testing.assert_array_equal(np.transpose(line.get_data()), data["positions"][at])
        np.testing.assert_array_equal(np.ravel(ring.get_data()), data["positions"][at, 12])
        assert screen.dot.get_xdata()[0] == pytest.approx(steps[at]) and str(steps[at]) in screen.clock.get_text()

    about, pictures = read(folder / "film.mp4")
    gap = round(SHORT["seconds"] * SHORT["fps"] / 4)
    assert len(drawn) == 4 * gap + 1 and len(pictures) == len(drawn) + SHORT["fps"] * filmed.STILL
    assert about["size"] == (1280, 720) and about["codec"] == "h264" and about["fps"] == SHORT["fps"]
    assert "yuv420p" in about["pix_fmt"]
    for at in (0, 2 * gap, -1):  # the codec loses a little, most of it at thin coloured edges
        away = np.abs(pictures[at if at >= 0 else len(drawn) - 1].astype(int) - drawn[at]).mean()
        other = np.abs(pictures[at if at >= 0 else len(drawn) - 1].astype(int) - drawn[gap]).mean()
        assert away < 1.5 and away < other
    moov, mdat = ((folder / "film.mp4").read_bytes().find(box) for box in (b"moov", b"mdat"))
    assert 0 < moov < mdat  # a browser plays it before all of it is there
    with Image.open(folder / "film.gif") as gif:
        assert gif.size == (640, 360) and gif.n_frames > 4 and gif.info["loop"] == 0
    [block] = [block for block in section["blocks"] if block["kind"] == "film"]
    assert block["file"] == "film.mp4" and block["poster"] == "film.png"


def test_numbers_of_the_film(of_kind: Any, made: Any) -> None:
    """The shares of neighbours of the same group, first and last, are those of nearest neighbours that scikit-learn
    finds; they are said, and the table's rows are snapshots."""
    lab = of_kind("t5")
    section, data, folder, _ = made("t5")
    assert "positions" not in data and data["tokens"].shape == (len(data["steps"]), len(data["ids"]), 2)
    for at in (0, -1):
        table = load_file(lab.run.path / "snapshots" / f"{data['steps'][at]}.safetensors")["embedding"].numpy()
        x = table[data["ids"]].astype(np.float64)
        _, near = NearestNeighbors(n_neighbors=6, metric="cosine").fit(x - x.mean(0)).kneighbors()
        others = np.bincount(data["group"])[data["group"]] - 1
        shares = [
            np.mean(data["group"][row[: min(5, most)]] == own)
            for row, own, most in zip(near, data["group"], others, strict=True)
            if most
        ]
        assert data["purity"][at] == pytest.approx(100 * np.mean(shares), abs=0.2)
    said = " ".join(block["text"]["en"] for block in section["blocks"] if block["kind"] == "text")
    assert f"{data['purity'][0]:.0f}%" in said and f"{data['purity'][-1]:.0f}%" in said
    [table] = [block for block in section["blocks"] if block["kind"] == "table"]
    assert [row[0] for row in table["rows"]["en"]][-1] == str(data["steps"][-1])
    page = (folder / "film.html").read_text(encoding="utf-8")
    sent = json.loads(page.split("const DATA = ")[1].split(";\n")[0])
    assert sent["steps"] == data["steps"].tolist() and sent["positions"] is None
    assert len(sent["labels"]) == sent["tokens"]["points"] == len(data["ids"])


def test_mistakes(of_kind: Any) -> None:
    """Positions that are not there, and a film of no length, are named."""
    chars, pieces = of_kind("chars"), of_kind("pieces")
    with pytest.raises(ValueError, match=r"no position 48.*0 to 47"):
        conducted(chars, "film", positions=(12, 48))
    with pytest.raises(ValueError, match="no table of positions"):
        conducted(pieces, "film", positions=(12,))
    with pytest.raises(ValueError, match="0 seconds"):
        conducted(chars, "film", seconds=0)
    with pytest.raises(ValueError, match="method"):
        conducted(chars, "film", method="umap")


def test_camera_holds_all_points() -> None:
    """What follows the points smoothly never loses one; what stays is the same at all snapshots."""
    random = np.random.default_rng(0)
    pictures = random.normal(size=(20, 30, 2)) * random.uniform(0.5, 3, (20, 1, 1))
    for follows in (True, False):
        views = filmed.camera(pictures, 1.4, follows=follows)
        left, right, bottom, top = views.T[..., None]
        assert ((left < pictures[..., 0]) & (pictures[..., 0] < right)).all()
        assert ((bottom < pictures[..., 1]) & (pictures[..., 1] < top)).all()
        np.testing.assert_allclose((right - left) / (top - bottom), 1.4)
        assert (np.ptp(views, axis=0) == 0).all() == (not follows)


def test_ticks_of_the_line_of_time() -> None:
    """Round steps that do not crowd, with the first and the last."""
    assert filmed.spaced(700) == [0, 10, 50, 100, 200, 500, 700]
    for last in (1, 2, 12, 150, 3_000, 100_000):
        found = filmed.spaced(last)
        gaps = np.diff(np.sqrt(found)) / np.sqrt(last)
        assert found[0] == 0 and found[-1] == last and (len(found) < 3 or gaps.min() > 0.1)
