"""The HTML page of an alignment, opened, clicked and hovered in Debian's Chromium."""

import json
import os
import re
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import xarray as xr

import softrsa
from softrsa.alignment import AlignmentResult, FitSettings
from softrsa.alignment.settings import repeat_call
from softrsa.errors import DataError, FileMissingError
from softrsa.reports.methods import methods_text
from softrsa.reports.page_content import cautions, page_content

IDS = [f"item {i:02}" for i in range(40)]
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def recording(values, **labels):
    coords = {name: ("unit", each) for name, each in labels.items()}
    return xr.DataArray(
        values.numpy(), dims=("stimulus", "unit"), coords={"stimulus": IDS, **coords}
    )


@pytest.fixture(scope="module")
def result():
    """Two layers (one right) and two regions of two subjects, with a learned transform."""
    rng = torch.Generator().manual_seed(0)
    right, wrong = torch.randn(2, 40, 6, generator=rng)
    brain = torch.cat([right] * 4, 1) + 0.7 * torch.randn(40, 24, generator=rng)
    layers = recording(torch.cat([right, wrong], 1), layer=["<right>"] * 6 + ["wrong"] * 6)
    regions = recording(
        brain, region=["V4"] * 12 + ["IT"] * 12, subject=(["ann"] * 6 + ["bob"] * 6) * 2
    )
    return softrsa.align(
        layers, regions, transforms=["identity", "centered", "global"], folds=4, n_resamples=200,
        settings=FitSettings(steps=(5, 10), inner_folds=2),
    )  # fmt: skip


@pytest.fixture(scope="module")
def page_file(result, tmp_path_factory):
    images = {name: np.full((20, 30, 3), i * 6, np.uint8) for i, name in enumerate(IDS)}
    path = tmp_path_factory.mktemp("page") / "report.html"
    result.report(path, title='Layers & "regions" </script>', images=images)
    return path


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium; without it these tests are skipped here and fail in CI."""
    found = shutil.which("chromium")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("CI must have Chromium: apt-get install chromium")
        pytest.skip("needs Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found, args=list(FLAGS))
        yield started
        started.close()


@contextmanager
def opened(browser, path, *, width=1280, **options):
    """Open the page without network; nothing may be said on the console or asked for."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    yield page
    context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def column(page, table, place):
    return page.locator(f"#{table} tbody tr > *:nth-child({place})").all_inner_texts()


def test_opens_with_warnings_before_scores(browser, page_file, result):
    with opened(browser, page_file) as page:
        assert page.title() == 'Layers & "regions" </script>'
        headings = page.locator("h2").all_inner_texts()
        assert headings[0] == "Before you read the scores"
        shown = page.locator("#warnings .warn").all_inner_texts()
        assert shown == cautions(result.data, result.table)
        assert "A fold tests about 10 stimuli" in shown[0]
        assert page.locator("#profile svg circle").count() == 4


def test_every_score_of_the_table_is_there_and_sorts(browser, page_file, result):
    with opened(browser, page_file) as page:
        found = [float(text) for text in column(page, "rows", 4)]
        np.testing.assert_allclose(found, result.table["score"].round(3), atol=6e-4)
        heading = page.locator("#rows th button", has_text=re.compile("^score$"))
        heading.click()
        down = [float(text) for text in column(page, "rows", 4)]
        assert down == sorted(found, reverse=True)
        assert page.locator("#rows th[aria-sort=descending]").inner_text().startswith("score")
        page.keyboard.press("Enter")  # the heading keeps the focus
        assert [float(text) for text in column(page, "rows", 4)] == sorted(found)
        page.locator("#rows th button", has_text=re.compile("^region$")).click()
        assert column(page, "rows", 2) == ["IT"] * 6 + ["V4"] * 6


def test_rows_are_found_by_words(browser, page_file):
    with opened(browser, page_file) as page:
        page.fill("#filter", "wrong global")
        assert page.locator("#rows tbody tr").count() == 2
        assert page.locator("#count").inner_text() == "2 of 12 rows"


def test_a_click_on_a_score_chooses_it_everywhere(browser, page_file, result):
    with opened(browser, page_file) as page:
        page.select_option("#pick-transform", "global")
        page.locator("#grid tbody tr", has_text="wrong").locator("button").nth(1).click()
        assert page.input_value("#pick-layer") == "wrong"
        assert page.input_value("#pick-region") == "IT"
        at = {"layer": "wrong", "region": "IT", "transform": "global"}
        wanted = float(result.data["score"].sel(at).mean())
        current = page.locator("#grid td[aria-current=true]").inner_text()
        assert float(current) == pytest.approx(wanted, abs=6e-4)
        assert "wrong with IT" in page.locator("#stimuli-about").inner_text()
        assert page.locator("#curve-model polygon").count() == 1
        page.select_option("#pick-transform", "centered")
        assert "Nothing is learned" in page.locator("#learned-about").inner_text()
        assert not page.locator("#curve-model").is_visible()


@pytest.mark.parametrize("width", [1280, 400])
def test_hovering_a_matrix_names_both_stimuli_and_their_similarity(
    browser, page_file, result, width
):
    with opened(browser, page_file, width=width) as page:
        page.select_option("#pick-region", "V4")
        canvas = page.locator("#m-brain-before")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        cell = box["width"] / 40
        page.mouse.move(box["x"] + 7.5 * cell, box["y"] + 3.5 * cell)
        value = float(result.data["example_rsm"].sel(region="V4", transform="identity",
            side="brain", anchor="item 03", neighbor="item 07"))  # fmt: skip
        told = page.locator("#cell").inner_text()
        assert "item 03 and item 07: similarity" in told
        assert float(re.search(r"similarity (-?[\d.]+)", told)[1]) == pytest.approx(value, abs=0.01)
        assert page.locator("#cell img").count() == 2
        canvas.focus()
        page.keyboard.press("ArrowDown")
        assert "item 04 and item 07" in page.locator("#cell").inner_text()


def test_matrices_can_be_ordered_by_clusters(browser, page_file):
    with opened(browser, page_file) as page:
        before = page.evaluate("document.getElementById('m-brain-before').toDataURL()")
        page.select_option("#pick-order", "cluster")
        assert page.evaluate("document.getElementById('m-brain-before').toDataURL()") != before


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_fits_the_window_and_reads_in_light_and_dark(browser, page_file, width, scheme):
    with opened(browser, page_file, width=width, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert contrast(page) > 7  # WCAG AAA
        page.click("#theme")
        assert contrast(page) > 7
        assert page.locator("#theme").inner_text() == ("Dark" if scheme == "dark" else "Light")


def contrast(page):
    """Ratio of the luminances of text and paper."""
    colors = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    light = []
    for color in colors:
        parts = np.array([int(v) for v in re.findall(r"\d+", color)[:3]]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        light.append(float(linear @ [0.2126, 0.7152, 0.0722]))
    return (max(light) + 0.05) / (min(light) + 0.05)


def test_everything_is_reached_with_the_tab_key(browser, page_file):
    with opened(browser, page_file) as page:
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(
                page.evaluate("document.activeElement.id || document.activeElement.tagName")
            )
        wanted = {"theme", "pick-transform", "pick-region", "pick-layer", "filter", "pick-order"}
        assert wanted | {"m-model-before", "m-brain-after"} <= reached


def test_prints_all_rows_without_controls(browser, page_file):
    with opened(browser, page_file) as page:
        page.emulate_media(media="print")
        assert not page.locator("#theme").is_visible()
        assert not page.locator("#filter").is_visible()
        tall = page.locator(".tall")
        assert tall.evaluate("e => e.scrollHeight <= e.clientHeight + 1")
        assert page.pdf()[:5] == b"%PDF-"


def test_thumbnails_stand_beside_the_stimuli(browser, page_file):
    with opened(browser, page_file) as page:
        pictures = page.locator(".stimulus img")
        assert pictures.count() == page.locator(".stimulus").count() > 4
        assert pictures.first.evaluate("e => e.naturalWidth") == 30


def test_stimuli_are_ranked_by_their_influence(result):
    # the first-order change: of the score when a stimulus is drawn once more, per draw
    content = page_content(result.data, result.table, None)
    found = content["influence"]["<right>\0V4\0identity"]
    mean = result.data["stimulus_influence"].sel(
        layer="<right>", region="V4", transform="identity"
    ).mean("fold")  # fmt: skip
    order = mean.values.argsort()
    assert [k for k, _ in found["top"]] == order[::-1][:10].tolist()
    assert [k for k, _ in found["bottom"]] == order[:10].tolist()


def test_influence_is_the_change_when_a_stimulus_weighs_more(result):
    """Against Pearson with weights on pairs, differentiated by steps."""
    data = softrsa.align(
        *[torch.randn(30, 8, generator=torch.Generator().manual_seed(s)) for s in (1, 2)],
        transforms=["identity"], measure="pearson", folds=3, n_resamples=0,
    ).data  # fmt: skip
    x, y = (torch.randn(30, 8, generator=torch.Generator().manual_seed(s)).numpy() for s in (1, 2))
    for fold in range(3):
        values = data["stimulus_influence"].isel(layer=0, region=0, transform=0, fold=fold)
        test = np.flatnonzero(np.isfinite(values))
        a, b = (np.corrcoef(side[test]) for side in (x, y))
        for place in (0, len(test) - 1):

            def score(step, at=place, a=a, b=b):
                weight = np.ones(len(a))
                weight[at] += step
                upper = np.triu_indices(len(a), 1)
                w = np.outer(weight, weight)[upper]
                return np.cov(a[upper], b[upper], aweights=w)[0, 1] / np.sqrt(
                    np.cov(a[upper], aweights=w) * np.cov(b[upper], aweights=w)
                )

            wanted = (score(1e-5) - score(-1e-5)) / 2e-5
            assert values[test[place]] == pytest.approx(wanted, rel=1e-4, abs=1e-7)


def test_examples_are_the_rsms_of_the_best_layer(result):
    data = result.data
    for region in ("V4", "IT"):
        scores = data["score"].sel(region=region).mean("fold").max("transform")
        best = str(scores["layer"].values[scores.values.argmax()])
        assert data["example_layer"].sel(region=region).item() == best == "<right>"
    plain = data["example_rsm"].sel(region="V4", transform="identity", side="model").values
    x = torch.randn(2, 40, 6, generator=torch.Generator().manual_seed(0))[0].numpy()
    np.testing.assert_allclose(plain, np.corrcoef(x), atol=1e-6)


def test_fits_begin_at_plain_scores_and_are_kept_at_every_stop():
    settings = FitSettings(steps=(5, 10), inner_folds=2)
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 40, 6, generator=rng)
    result = softrsa.align(
        {"a": x, "b": y}, {"c": x + y}, transforms=["identity", "centered", "global"], folds=4,
        n_resamples=0, settings=settings,
    )  # fmt: skip
    path = result.data["fit_path"].sel(transform="global")
    assert path["stop"].values.tolist() == [0, 5, 10]
    assert path.sel(role="train", stop=0).notnull().all()
    # NaN after the end of a fit, never before
    known = path.notnull().values
    assert (known[..., 1:] <= known[..., :-1]).all()
    # no step taken: the training score of the plain RSMs, which scaling does not change
    plain = result.data["train_score"].sel(transform="identity")
    start = path.sel(role="train", stop=0)
    np.testing.assert_allclose(start, plain.transpose(*start.dims), atol=2e-3)
    assert result.data["fit_path"].sel(transform="centered").isnull().all()


def test_words_and_call_say_what_was_done(result):
    text, references = methods_text(result.data)
    for said in (
        "2 layers of a model with 2 regions of a brain (2 subjects)", "same 40 stimuli",
        "means over 4 folds", "a SoftStep common to all stimuli", "learning rate 0.2, decaying",
        "200 bootstrap resamples",
    ):  # fmt: skip
        assert said in text
    cited = [int(n) for n in re.findall(r"\[(\d+)\]", text)]
    assert list(dict.fromkeys(cited)) == list(range(1, len(references) + 1))
    called = {}
    code = repeat_call(result.data.attrs).replace("softrsa.align(", "align(")
    code = "\n".join(line for line in code.splitlines() if line != "import softrsa")
    exec(code, {"align": lambda *_, **k: called.update(k), "layers": 0, "regions": 0})  # noqa: S102
    assert called.pop("settings") == FitSettings(steps=(5, 10), inner_folds=2)
    assert called == {
        "by": "layer", "region": "region", "subject": "subject", "join": "exact",
        "transforms": ["identity", "centered", "global"], "measure": "centered_pearson",
        "similarity": "correlation", "folds": 4, "subjects": "pooled", "permute": False,
        "n_resamples": 200, "seed": 0,
    }  # fmt: skip


@pytest.mark.parametrize("measure", ["spearman", "kendall_tau_a", "debiased_cka"])
def test_every_kind_of_measure_has_a_page(browser, tmp_path, measure):
    x = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    y = x + torch.randn(30, 5, generator=torch.Generator().manual_seed(1))
    result = softrsa.align(x, y, transforms=["identity"], measure=measure, n_resamples=20)
    result.report(tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        assert page.locator("#grid td").count() == 1
        of_units = measure == "debiased_cka"
        compared = page.locator("dl").inner_text()
        assert f"{measure} of {'units' if of_units else 'RSMs by correlation'}" in compared
        assert "Not known" not in page.locator("#stimuli-about").inner_text()


@pytest.mark.parametrize(
    ("changed", "said", "unsaid"),
    [
        ({"transforms": "centered,selected"}, "the simplest transform within", "SoftStep"),
        ({"transforms": "selected"}, "(among no transform, double-centering", "selected"),
        (
            {"measure": "spearman"},
            "as the measure has no gradient",
            "double-centering, which",
        ),
        ({"measure": "ridge_predictivity"}, "fitted on the training stimuli of", "SoftStep"),
        ({"measure": "procrustes_distance"}, "they are negative distances", "SoftStep"),
        ({"subjects": "leave_one_out"}, "fitted on the others", "shuffled"),
        ({"stimuli_left_out": '{"V4": ["a", "b"]}'}, "2 stimuli that not all data had", "shuffled"),
        ({"layers_averaged": 1}, "Of 1 layer, which had several subjects", "shuffled"),
        ({"n_inner_folds": 7}, "on 7 inner folds", "shuffled"),
    ],
)
def test_words_are_true_of_other_settings(result, changed, said, unsaid):
    text, _ = methods_text(result.data.assign_attrs(changed))
    assert said in text
    assert unsaid not in text


@pytest.fixture(scope="module")
def mapped():
    """A result with a learned similarity, with a SoftStep after it, and one of the model's side."""
    rng = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 60, 4, generator=rng)
    brain = x * torch.tensor([5.0, 5.0, 0.1, 0.1]) + noise
    both = xr.DataArray(
        torch.cat([brain, brain + 0.5 * noise.flip(0)], 1).numpy(), dims=("stimulus", "unit"),
        coords={"stimulus": range(60), "subject": ("unit", ["ann"] * 4 + ["bob"] * 4)},
    )  # fmt: skip
    settings = FitSettings(
        steps=(5, 10), inner_folds=2, sides="model", map_penalties=(1e-3,), gates=("profile",),
        gate_measure="balanced_pearson",
    )  # fmt: skip
    return softrsa.align(
        {"a": x}, {"b": both}, transforms=["identity", "metric", "metric+instance", "encoding"],
        folds=3, settings=settings, n_resamples=0,
    )  # fmt: skip


def test_words_say_how_a_similarity_was_learned_and_on_whose_side(mapped):
    text, references = methods_text(mapped.data)
    for said in (
        "Similarities were learned of the layers, never of the brain, on training stimuli only",
        "any linear map of the components", "to maximize the same measure",
        "Number of components (50 or 400, or all where there are fewer)",
        "Encoding models predict the units of each subject by ridge regression",
        "Every row was given back the mean and the size", "were fitted on the model's side only",
        "balancing, which removes row and column means and",
        "Learned similarities and SoftSteps leave the brain's matrices as they are",
    ):  # fmt: skip
        assert said in text
    assert "weight for each component" not in text
    assert len(references) == len(set(re.findall(r"\[(\d+)\]", text)))


def test_words_without_learned_similarity_and_of_older_settings(result):
    settings = json.loads(result.data.attrs["settings"])
    for name in ("sides", "gate_measure", "keep_stimuli"):
        del settings[name]
    old = result.data.assign_attrs(settings=json.dumps(settings))
    old = old.drop_attrs(deep=False).assign_attrs(
        {k: v for k, v in old.attrs.items() if k not in ("mapped", "learned", "words")}
    )
    text, _ = methods_text(old)
    assert "were fitted on both sides" in text
    assert "They maximized the same measure." in text
    assert "untouched brain" not in text
    assert "Similarities were learned" not in text


def test_page_of_a_result_without_the_four_scores_still_opens(browser, result, tmp_path):
    lacking = ["per_anchor_score", "balanced_score", "identification"]
    old = AlignmentResult(result.data.drop_vars(lacking))
    old.report(tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        assert not page.locator("#beside").is_visible()
        assert "balanced" not in page.locator("#rows thead").inner_text()


def test_page_shows_gains_by_four_scores_and_what_a_similarity_weighs(browser, mapped, tmp_path):
    mapped.report(tmp_path / "page.html")
    content = page_content(mapped.data, mapped.table, None)
    table = mapped.table.set_index("transform")
    names = ["score", "per_anchor_score", "balanced_score", "identification"]
    fixed = mapped.data[names].sel(transform=mapped.data.attrs["baselines"].split(","))
    fixed = fixed.mean("fold").isel(layer=0, region=0)
    best = fixed.isel(transform=int(np.argmax(fixed["score"].values)))
    wanted = [table.loc["metric", name] - float(best[name]) for name in names]
    np.testing.assert_allclose(content["beside"]["a\0b\0metric"], wanted, atol=1e-6)
    weights = mapped.data["component_weight"].sel(transform="metric").mean("fold").values.ravel()
    found = content["similarities"]["a\0b\0metric"]["weights"]
    np.testing.assert_allclose(found, weights[np.isfinite(weights)], atol=6e-4)
    with opened(browser, tmp_path / "page.html") as page:
        for name in ("per anchor", "balanced", "identified", "steps of"):
            assert name in page.locator("#rows thead").inner_text()
        assert page.locator("#beside circle").count() == 16
        page.select_option("#pick-transform", "metric")
        assert page.locator("#similarity-weights circle").count() == len(found)
        assert page.locator("#similarity-path").is_visible()
        assert not page.locator("#learned-about").is_visible()
        page.select_option("#pick-transform", "encoding")
        assert page.locator("#similarity-weights").is_visible()
        assert not page.locator("#similarity-path").is_visible()
        page.select_option("#pick-transform", "identity")
        assert not page.locator("#similarity-about").is_visible()
        assert "on the model's side only" in page.locator("dl").inner_text()


def test_repeated_random_splits_are_counted_by_the_stimuli_they_test():
    x = torch.randn(48, 5, generator=torch.Generator().manual_seed(0))
    splits = softrsa.alignment.random_splits(48, 24, 10, seed=0)
    found = softrsa.align(x, x.flip(1), transforms=["identity"], folds=splits, n_resamples=0)
    assert not [line for line in cautions(found.data, found.table) if "A fold tests" in line]
    assert "in fact folds of your own" in repeat_call(found.data.attrs)


def test_many_layers_can_be_drawn_and_chosen_with_the_focus_kept(browser, tmp_path):
    rng = torch.Generator().manual_seed(0)
    layers = {f"layer {i}": torch.randn(12, 4, generator=rng) for i in range(120)}
    regions = {f"region {i}": torch.randn(12, 4, generator=rng) for i in range(4)}
    result = softrsa.align(layers, regions, transforms=["identity"], folds=2, n_resamples=0)
    result.report(tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as page:
        assert page.locator("#grid td").count() == 480
        page.locator("#grid button").first.click()
        assert page.evaluate("document.activeElement.closest('table').id") == "grid"


def test_a_control_says_so_first(result):
    data = result.data.assign_attrs(permuted=1)
    assert cautions(data, result.table)[0].startswith("This is a control")
    assert "had been shuffled" in methods_text(data)[0]


def test_data_of_the_page_is_json_that_cannot_end_its_element(page_file):
    text = page_file.read_text("utf-8")
    data = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.S)[1]
    assert "<" not in data
    assert json.loads(data)["layers"] == ["<right>", "wrong"]
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")


def test_what_is_wrong_with_pictures_is_named(result, tmp_path):
    with pytest.raises(FileMissingError, match="nowhere with images"):
        result.report(tmp_path / "page.html", images=tmp_path / "nowhere")
    (tmp_path / "item 00.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="of stimulus 'item 00' cannot be read"):
        result.report(tmp_path / "page.html", images=tmp_path)
    with pytest.raises(DataError, match=r"No stimulus has a picture: .*'item 00'.*'other'"):
        result.report(tmp_path / "page.html", images={"other": np.zeros((2, 2), np.uint8)})
    assert not (tmp_path / "page.html").exists()


def test_result_of_an_earlier_version_is_refused_with_the_way_out(result, tmp_path):
    old = AlignmentResult(result.data.drop_vars(["stimulus_influence", "example_rsm"]))
    with pytest.raises(DataError, match=r"lacks example_rsm, stimulus_influence.*align again"):
        old.report(tmp_path / "page.html")
