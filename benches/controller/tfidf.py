"""What a cold start is measured against: TF-IDF and logistic regression on the same labelled texts.

Draws seeds by chance out of a labelled set, writes each as `seed-N.csv`, and scores on the test file a model whose word
n-grams and regularisation are chosen by five-fold cross-validation on the seed. Prints one line of JSON.
"""

import argparse
import csv
import json
import random
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

CHOICES = {"words__ngram_range": [(1, 1), (1, 2)], "regression__C": [1, 3, 10, 30, 100]}


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        return [(row["text"], row["label"]) for row in csv.DictReader(file)]


def write(path, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])


def score(seed, test):
    model = Pipeline([("words", TfidfVectorizer(sublinear_tf=True)), ("regression", LogisticRegression(max_iter=2000))])
    tuned = GridSearchCV(model, CHOICES, cv=5).fit(*zip(*seed))
    return round(tuned.score(*zip(*test)), 4)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="the labelled set that seeds are drawn from")
    parser.add_argument("--test", type=Path, required=True, help="the labelled set that is scored on")
    parser.add_argument("--sizes", type=int, nargs="+", default=[300, 1000, 3000], help="texts of each seed")
    parser.add_argument("--chance", type=int, default=0, help="seed of the draws")
    parser.add_argument("--out", type=Path, required=True, help="the folder for the seeds")
    args = parser.parse_args()
    train, test = read(args.train), read(args.test)
    found = {}
    for size in args.sizes:
        seed = random.Random(args.chance).sample(train, size)
        write(args.out / f"seed-{size}.csv", seed)
        found[f"tfidf_{size}"] = score(seed, test)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
