"""For schemathesis with valid requests: what holds of this server's tasks, and what no JSON schema can say."""

import schemathesis

TASKS = ["kept", "sentiment"]
LABELS = ["bug", "question", "request"]


@schemathesis.hook
def before_load_schema(context, schema):
    def properties(name):
        return schema["components"]["schemas"][name]["properties"]

    for name in ["ReviewRequest", "PoolRequest"]:
        properties(name)["task"]["enum"] = TASKS
    properties("ReviewRequest")["spec"]["type"] = "null"
    properties("Review")["label"] = {"enum": [*LABELS, None]}
    properties("Sample")["text"] |= {"pattern": "[a-z]", "maxLength": 8000}
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    properties("Vote")["probabilities"] |= {"minItems": len(LABELS), "maxItems": len(LABELS), "items": probability}
    # Few of them, which is enough and fast.
    properties("Annotation")["votes"]["maxItems"] = 3
    properties("PoolRequest")["annotations"]["maxItems"] = 4
    schema["paths"]["/v1/rounds/{task}"]["parameters"][0]["schema"]["enum"] = TASKS


def whole(value):
    """The same with 5 in the place of 5.0, which to JSON Schema is an integer too."""
    if isinstance(value, dict):
        return {key: whole(one) for key, one in value.items()}
    if isinstance(value, list):
        return [whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


@schemathesis.hook
def before_call(context, case, kwargs):
    if not isinstance(case.body, dict):
        return
    case.body = whole(case.body)
    # Ids of a request differ, and their length counts in bytes.
    for number, item in enumerate(case.body.get("items", [])):
        item["id"] = f"{number} " + item["id"].encode()[:250].decode(errors="ignore")
