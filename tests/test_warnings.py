"""Warnings name the user's line, whatever calls lie between."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from small import data, trainer
from torch.utils.data import DataLoader

from resup import BetaMixture, DecoyMixture, LabelReport, SampleWeigher

ALIKE = np.full(9, 0.5)


def resume_otherwise(tmp_path):
    loader = DataLoader(data(), 32)
    trainer().fit(loader, 1, checkpoint=tmp_path / "last.pt")
    trainer(exchange="own").fit(loader, 1, resume=tmp_path / "last.pt")


CALLS = {
    "fit": lambda _: BetaMixture().fit(ALIKE),
    "fit_predict": lambda _: BetaMixture().fit_predict(ALIKE),
    "fit_predict of decoys": lambda _: DecoyMixture().fit_predict(ALIKE, ALIKE),
    "pipeline": lambda _: make_pipeline(FunctionTransformer(), BetaMixture()).fit(ALIKE[:, None]),
    "report": lambda _: LabelReport.from_predictions([0, 1], np.eye(2)),
    "judge": lambda _: SampleWeigher(networks=1).judge(torch.zeros(1, 3, 2), torch.zeros(3).long()),
    "resume": resume_otherwise,
}


@pytest.mark.parametrize("name", CALLS)
def test_a_warning_names_the_users_line(name, tmp_path):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        CALLS[name](tmp_path)
    assert told
    for each in told:
        assert each.category in (UserWarning, ConvergenceWarning)
        assert each.filename == __file__
