"""Wrong labels from held-out predictions of scikit-learn's classifiers, beside cleanlab.

    python benchmarks/predictions.py [--out FILE.json]

Each row is a table and a noise, over three classifiers with five-fold predictions and the seeds,
the same predictions for both programs: the share of wrong labels and, lowest to highest, those
estimated by `LabelReport.from_predictions` and cleanlab's `find_label_issues`; the mean area under
the ROC curve of the ranking, for cleanlab of the better of its two scores in each run; mean
precision / recall of the labels named, by resup those less likely right than wrong; and of its
lists at a stated rate of false discoveries the mean share of the wrong labels that they hold and
the highest share of right ones. On one core, no network.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from sklearn.datasets import load_digits, make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_score, recall_score
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from small_trainings import arguments, auroc, span, write_table

from resup import LabelReport, noise

CLASSIFIERS = {
    "logistic regression": LogisticRegression(max_iter=300),
    "forest": RandomForestClassifier(random_state=0),
    "neighbours": KNeighborsClassifier(10),
}
MADE = {"3 classes": (3, 1.0), "10 classes": (10, 2.0), "10, overlapping": (10, 0.8)}
NOISES = {
    "none": None,
    **{f"symmetric {100 * r:.0f} %": ("symmetric", r) for r in (0.03, 0.1, 0.3)},
    **{f"pairs {100 * r:.0f} %": ("pairs", r) for r in (0.1, 0.3)},
}
SAMPLES = 2000
STATED = 0.2


@cache
def table(name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    if name == "digits":
        x, y = load_digits(return_X_y=True)
    else:
        classes, apart = MADE[name]
        x, y = make_classification(
            SAMPLES,
            20,
            n_informative=10,
            n_classes=classes,
            n_clusters_per_class=1,
            class_sep=apart,
            flip_y=0,
            random_state=seed,
        )
    return StandardScaler().fit_transform(x), y


def labels(true: np.ndarray, kind: str, seed: int) -> np.ndarray:
    if NOISES[kind] is None:
        return true
    (shape, rate), classes = NOISES[kind], int(true.max()) + 1
    rows = noise.symmetric_transition(classes, rate)
    if shape == "pairs":
        rows = noise.asymmetric_transition(
            classes, rate, {c: (c + 1) % classes for c in range(classes)}
        )
    return noise.apply_transition(true, rows, np.random.default_rng(seed))


def named(wrong: np.ndarray, chosen: np.ndarray) -> dict[str, float]:
    """Share of those chosen that are wrong, and of the wrong ones that are chosen."""
    return {
        "precision": float(precision_score(wrong, chosen, zero_division=0)),
        "recall": float(recall_score(wrong, chosen, zero_division=0)),
    }


def run(name: str, kind: str, classifier: str, seed: int) -> dict:
    x, true = table(name, seed)
    given = labels(true, kind, seed)
    wrong = given != true
    p = cross_val_predict(CLASSIFIERS[classifier], x, given, cv=5, method="predict_proba")
    report = LabelReport.from_predictions(given, p)
    place = np.argsort(report.index)
    issues = find_label_issues(given, p, n_jobs=1)  # a forked pool may hang
    scores = [
        get_label_quality_scores(given, p, method=m)
        for m in ("self_confidence", "normalized_margin")
    ]
    listed = (report.q_value <= STATED)[place]
    return {
        "classifier": classifier,
        "seed": seed,
        "wrong": float(wrong.mean()),
        "errors": float((p.argmax(1) != true).mean()),
        "resup": {
            "found": report.noise_rate,
            "auroc": auroc(wrong, place),
            **named(wrong, report.clean_probability[place] < 0.5),
        },
        "cleanlab": {
            "found": float(issues.mean()),
            "auroc": [auroc(wrong, score) for score in scores],
            **named(wrong, issues),
        },
        "listed": {
            "labels": int(listed.sum()),
            "right": float((~wrong)[listed].mean()) if listed.any() else 0.0,
            **named(wrong, listed),
        },
    }


def rows(seeds: list[int]) -> Iterator[tuple[dict, list[str]]]:
    for name in ("digits", *MADE):
        for kind in NOISES:
            runs = [run(name, kind, c, seed) for c in CLASSIFIERS for seed in seeds]
            of = {who: [r[who] for r in runs] for who in ("resup", "cleanlab", "listed")}
            cells = [name, kind, span((r["errors"] for r in runs), 2)]
            cells.append(f"{np.mean([r['wrong'] for r in runs]):.3f}")
            cells += [span((r["found"] for r in of[who]), 2) for who in ("resup", "cleanlab")]
            if kind == "none":
                cells += ["–"] * 4
            else:
                ours = np.mean([r["auroc"] for r in of["resup"]])
                theirs = np.mean([max(r["auroc"]) for r in of["cleanlab"]])
                cells.append(f"{ours:.3f} / {theirs:.3f}")
                for who in ("resup", "cleanlab"):
                    means = (np.mean([r[k] for r in of[who]]) for k in ("precision", "recall"))
                    cells.append(" / ".join(f"{mean:.2f}" for mean in means))
                cells.append(f"{np.mean([r['recall'] for r in of['listed']]):.2f}")
            cells.append(f"{max(r['right'] for r in of['listed']):.2f}")
            yield {"table": name, "noise": kind, "seeds": seeds, "runs": runs}, cells


def main() -> None:
    args = arguments(__doc__, [0, 1, 2]).parse_args()
    heads = ["table", "noise", "errors", "wrong", "resup: found", "cleanlab: found"]
    heads += ["AUROC, both", "resup: named", "cleanlab: named", f"listed at {STATED}", "false"]
    write_table(heads, rows(args.seeds), args.out, ["cleanlab"])


if __name__ == "__main__":
    main()
