import json

import pytest
import torch

from stylekit.measures.features import Estimate
from stylekit.measures.table import Evaluation, Metric, Samples, table
from stylekit.options import EvaluateOptions

NAN = float("nan")
KID = Metric(Estimate(0.0213, 0.0157, 0.03), Estimate(-0.001, -0.002, 0.001), Estimate(0.2051, 0.1, 0.3))
HALO = Metric(Estimate(2.5, -1.0, 4.5), None, Estimate(NAN, NAN, NAN))


def test_the_table_names_the_features_and_scales_kid():
    lines = table({"kid_vgg_compact": KID, "halo": HALO}, ("real Y", "untranslated X")).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert rows[0] == ["", "output", "95 % interval", "real Y", "untranslated X"]
    assert rows[2] == ["kid_vgg_compact x 1000", "21.3", "15.7 to 30", "-1", "205"]
    assert rows[3] == ["halo", "2.5", "-1 to 4.5", "", "none"]


def test_an_evaluation_is_written_as_json_without_nan(tmp_path):
    config = EvaluateOptions(dataroot="data", output=tmp_path / "evaluation.json")
    Evaluation(config, counts={"x": 2}, metrics={"halo": HALO}, errors=["a.jpg"]).save()
    written = json.loads((tmp_path / "evaluation.json").read_text(), parse_constant=pytest.fail)
    halo = {"output": {"value": 2.5, "low": -1, "high": 4.5}, "real": None}
    halo["untranslated"] = {"value": None, "low": None, "high": None}
    options = {"dataroot": "data", "output": str(config.output), "size": None, "max_dataset_size": None}
    options |= {"device": "auto", "threads": None}
    assert written == {**options, "counts": {"x": 2}, "metrics": {"halo": halo}, "errors": ["a.jpg"]}


def test_samples_are_stacked_and_averaged_without_nan():
    samples = Samples()
    for i in range(3):
        samples.add(vector=torch.full((2,), float(i)), weave=NAN if i == 1 else float(i))
    assert samples.stack("vector").tolist() == [[0, 0], [1, 1], [2, 2]]
    assert samples.mean("weave").value == 1 and samples.count("weave") == 2 and samples.mean("halo") is None
