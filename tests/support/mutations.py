"""Ways in which the files of a run go wrong: each takes a run's folder and a random number generator."""

import json
import os
import shutil

NUMBERS = [
    "-1e-3",
    "nan",
    "NaN",
    "1e999",
    "2.5",
    "-0",
    "99999999999999999999",
    "0x10",
    "1_0",
    " 1",
    "",
    "inf",
    "ß",
]
VALUES = [None, True, -1, 10**30, 2**63, 1.5, "x", "", [], {}, [[1]], {"a": 1}, 1e308, "\x1b[2J\n", ["a", None], 0]


def _table(folder, chance):
    return folder / chance.choice(sorted(path.name for path in folder.glob("*.csv")))


def _file(folder, chance):
    return chance.choice([folder / "run.json", _table(folder, chance)])


def _rows(change):
    def mutate(folder, chance):
        file = _table(folder, chance)
        head, *rows = file.read_text(encoding="utf-8").splitlines(keepends=True)
        file.write_text("".join(change([head], rows, chance)), encoding="utf-8")

    return mutate


def _cell(change):
    def rows(head, rows, chance):
        names, at = head[0].strip().split(","), chance.randrange(len(rows))
        cells = rows[at].rstrip("\n").split(",")
        column = chance.randrange(len(cells))
        cells[column] = change(names[column % len(names)], cells[column], chance)
        rows[at] = ",".join(cells) + "\n"
        return head + rows

    return _rows(rows)


def truncate(folder, chance):
    file = _file(folder, chance)
    file.write_bytes(file.read_bytes()[: chance.randrange(file.stat().st_size)])


@_rows
def duplicate_rows(head, rows, chance):
    at = chance.randrange(len(rows))
    return head + rows[: at + 1] + rows[at : at + chance.randint(1, 3)] + rows[at + 1 :]


@_rows
def drop_rows(head, rows, chance):
    at = chance.randrange(len(rows))
    return head + rows[:at] + rows[at + chance.randint(1, len(rows)) :]


@_rows
def other_order(head, rows, chance):
    return head + chance.sample(rows, len(rows))


@_rows
def columns_twice(head, rows, chance):
    line = head[0].strip()
    return [f"{line},{chance.choice(line.split(','))}\n", *(f"{row.strip()},1\n" for row in rows)]


@_cell
def foreign_layer(name, cell, chance):
    return chance.choice(["layer99", "", "layer0 ", '"layer', "\u202elayer"]) if name == "layer" else "another"


@_cell
def impossible_number(name, cell, chance):
    return chance.choice(NUMBERS)


@_cell
def one_digit(name, cell, chance):
    return cell[:-1] + chance.choice("0123456789")


def _places(value, path=()):
    """Every place in a value of JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in items:
        yield *path, key
        yield from _places(one, (*path, key))


def _json(change):
    def mutate(folder, chance):
        record = json.loads((folder / "run.json").read_text())
        *path, key = chance.choice(list(_places(record)))
        owner = record
        for step in path:
            owner = owner[step]
        change(owner, key, chance)
        (folder / "run.json").write_text(json.dumps(record))

    return mutate


@_json
def wrong_type(owner, key, chance):
    owner[key] = chance.choice(VALUES)


@_json
def no_such_key(owner, key, chance):
    owner.pop(key)


@_json
def another_key(owner, key, chance):
    if isinstance(owner, dict):
        owner[f"{key}s"] = owner.pop(key)
    else:
        owner.append(owner[key])


@_json
def nested(owner, key, chance):
    depth = chance.choice([5, 900])
    for _ in range(depth):
        owner[key] = [owner[key]]


def nested_deeply(folder, chance):
    depth = chance.choice([1000, 100_000])
    (folder / "run.json").write_text(
        chance.choice(["[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth])
    )


def huge_integers(folder, chance):
    file, digits = _file(folder, chance), "9" * chance.choice([19, 20, 400, 5000])
    text = file.read_text()
    at = chance.choice([i for i, char in enumerate(text) if char.isdigit()])
    file.write_text(text[:at] + digits + text[at + 1 :])


def future_version(folder, chance):
    record = json.loads((folder / "run.json").read_text())
    record["schema"] = chance.choice([record["schema"] + 1, 99, 10**25, 0, -1, "2", 2.0, True, None, [2]])
    (folder / "run.json").write_text(json.dumps(record))


def older_version(folder, chance):
    record = json.loads((folder / "run.json").read_text())
    record["schema"] = 1
    for key in chance.choice([(), ("format",), ("checksum",), ("files",)]):
        record.pop(key, None)
    (folder / "run.json").write_text(json.dumps(record))


def random_bytes(folder, chance):
    file = _file(folder, chance)
    data = bytearray(file.read_bytes())
    for _ in range(chance.choice([1, 1, 10])):
        data[chance.randrange(len(data))] = chance.randrange(256)
    file.write_bytes(bytes(data))


def inserted_bytes(folder, chance):
    file, data = _file(folder, chance), b""
    at = chance.randrange(file.stat().st_size)
    data = file.read_bytes()
    file.write_bytes(
        data[:at] + chance.choice([b"\0", b"\r", b'"', b"\n", b",", b"\xff", b"\xef\xbb\xbf"]) + data[at:]
    )


def not_json(folder, chance):
    (folder / "run.json").write_text(
        chance.choice(["", "null", "[]", "NaN", '{"schema": 2}', '"x"', "{", "1" * 5000])
    )


def no_file(folder, chance):
    _file(folder, chance).unlink()


def no_regular_file(folder, chance):
    file = _file(folder, chance)
    file.unlink()
    kind = chance.choice(["folder", "pipe", "link to itself", "link to zeros"])
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(file.name if kind == "link to itself" else "/dev/zero")


def another_file(folder, chance):
    shutil.copyfile(_table(folder, chance), _file(folder, chance).with_suffix(".copy"))
    (folder / _table(folder, chance).name).write_bytes((folder / "run.json").read_bytes())


MUTATIONS = [
    truncate,
    duplicate_rows,
    drop_rows,
    other_order,
    columns_twice,
    foreign_layer,
    impossible_number,
    one_digit,
    wrong_type,
    no_such_key,
    another_key,
    nested,
    nested_deeply,
    huge_integers,
    future_version,
    older_version,
    random_bytes,
    inserted_bytes,
    not_json,
    no_file,
    no_regular_file,
    another_file,
]
