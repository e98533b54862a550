package twin

import (
	"errors"
	"fmt"

	"go.starlark.net/starlark"
)

// tablesValue is what a script knows as tables, during one call.
type tablesValue struct{ c *call }

func (v *tablesValue) String() string        { return "tables" }
func (v *tablesValue) Type() string          { return "tables" }
func (v *tablesValue) Freeze()               {}
func (v *tablesValue) Truth() starlark.Bool  { return true }
func (v *tablesValue) Hash() (uint32, error) { return 0, errors.New("tables cannot be a key") }

func (v *tablesValue) Attr(name string) (starlark.Value, error) {
	t := v.c.run.world.byName[name]
	if t == nil {
		return nil, fmt.Errorf("there is no table %q", name)
	}
	return &tableValue{c: v.c, t: t}, nil
}

func (v *tablesValue) AttrNames() []string {
	var names []string
	for _, t := range v.c.run.world.tables {
		names = append(names, t.name)
	}
	return names
}

// tableValue is one table, during one call. Every row it gives is a copy.
type tableValue struct {
	c *call
	t *table
}

func (v *tableValue) String() string        { return "tables." + v.t.name }
func (v *tableValue) Type() string          { return "table" }
func (v *tableValue) Freeze()               {}
func (v *tableValue) Truth() starlark.Bool  { return v.Len() > 0 }
func (v *tableValue) Hash() (uint32, error) { return 0, errors.New("a table cannot be a key") }

func (v *tableValue) Len() int {
	v.c.run.lacks(v.t, "")
	total := v.t.len()
	for n, c := range v.c.run.tables[v.t.place].rows {
		switch {
		case n < v.t.len() && c.raw == nil:
			total--
		case n >= v.t.len() && c.raw != nil:
			total++
		}
	}
	return total
}

// Iterate goes over the keys, as they are now.
func (v *tableValue) Iterate() starlark.Iterator {
	var keys []starlark.Value
	v.c.run.each(v.t, func(_ int, key, _ []byte) bool {
		k, err := v.c.vals.read(key)
		if err == nil {
			keys = append(keys, k)
		}
		return err == nil
	})
	return starlark.NewList(keys).Iterate()
}

// Get is tables.T[key] and key in tables.T.
func (v *tableValue) Get(key starlark.Value) (starlark.Value, bool, error) {
	text, err := v.c.keyText(v.t, key)
	if err != nil {
		return nil, false, err
	}
	_, raw, ok := v.c.run.get(v.t, text)
	if !ok {
		return nil, false, nil
	}
	row, err := v.c.vals.read(raw)
	return row, err == nil, err
}

// keyText is the key as tables hold it. A key of several fields is a list.
func (c *call) keyText(t *table, key starlark.Value) (string, error) {
	values := []starlark.Value{key}
	if n := len(t.def.Key); n > 1 {
		list, ok := key.(starlark.Indexable)
		if !ok || list.Len() != n {
			return "", fmt.Errorf("the key of %s is a list of %d values", t.name, n)
		}
		values = values[:0]
		for i := range n {
			values = append(values, list.Index(i))
		}
	}
	return c.valuesText(values)
}

func (c *call) valuesText(values []starlark.Value) (text string, err error) {
	raws := make([][]byte, len(values))
	for i, v := range values {
		if raws[i], err = c.vals.write(nil, v); err != nil {
			return "", err
		}
	}
	text, _ = joinText(raws)
	return text, nil
}

var tableMethods = map[string]func(v *tableValue, t *starlark.Thread, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error){
	"get": func(v *tableValue, _ *starlark.Thread, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		var key starlark.Value
		if err := starlark.UnpackPositionalArgs("get", args, kwargs, 1, &key); err != nil {
			return nil, err
		}
		row, ok, err := v.Get(key)
		if err != nil || ok {
			return row, err
		}
		return starlark.None, nil
	},
	"find": func(v *tableValue, _ *starlark.Thread, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		return v.find("find", args, kwargs, false)
	},
	"first": func(v *tableValue, _ *starlark.Thread, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		return v.find("first", args, kwargs, true)
	},
	"where": func(v *tableValue, t *starlark.Thread, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		var test starlark.Callable
		if err := starlark.UnpackPositionalArgs("where", args, kwargs, 1, &test); err != nil {
			return nil, err
		}
		return v.list(func(_ starlark.Value, row starlark.Value) (starlark.Value, error) {
			yes, err := starlark.Call(t, test, starlark.Tuple{row}, nil)
			if err != nil || !yes.Truth() {
				return nil, err
			}
			return row, nil
		})
	},
	"rows": func(v *tableValue, _ *starlark.Thread, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		if err := starlark.UnpackPositionalArgs("rows", args, kwargs, 0); err != nil {
			return nil, err
		}
		return v.list(func(_, row starlark.Value) (starlark.Value, error) { return row, nil })
	},
	"keys": func(v *tableValue, _ *starlark.Thread, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		if err := starlark.UnpackPositionalArgs("keys", args, kwargs, 0); err != nil {
			return nil, err
		}
		return v.list(func(key, _ starlark.Value) (starlark.Value, error) { return key, nil })
	},
	"items": func(v *tableValue, _ *starlark.Thread, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		if err := starlark.UnpackPositionalArgs("items", args, kwargs, 0); err != nil {
			return nil, err
		}
		return v.list(func(key, row starlark.Value) (starlark.Value, error) { return starlark.Tuple{key, row}, nil })
	},
	"insert": func(v *tableValue, _ *starlark.Thread, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		key, row, err := v.keyAndRow("insert", args, kwargs)
		if err != nil {
			return nil, err
		}
		return v.c.insert(v.t, key, row)
	},
	"update": func(v *tableValue, _ *starlark.Thread, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		var key starlark.Value
		var changes *starlark.Dict
		if err := starlark.UnpackPositionalArgs("update", args, kwargs, 2, &key, &changes); err != nil {
			return nil, err
		}
		text, err := v.c.keyText(v.t, key)
		if err != nil {
			return nil, err
		}
		raw, err := v.c.update(v.t, text, changes)
		if err != nil {
			return nil, err
		}
		return v.c.vals.read(raw)
	},
	"put": func(v *tableValue, _ *starlark.Thread, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		key, row, err := v.keyAndRow("put", args, kwargs)
		if err != nil {
			return nil, err
		}
		raw, err := v.c.vals.write(nil, row)
		if err != nil {
			return nil, err
		}
		if key == "" {
			if key, err = v.t.keyOf(raw); err != nil {
				return nil, err
			}
		}
		return starlark.None, v.c.run.replace(v.t, key, raw)
	},
	"delete": func(v *tableValue, _ *starlark.Thread, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		var key starlark.Value
		if err := starlark.UnpackPositionalArgs("delete", args, kwargs, 1, &key); err != nil {
			return nil, err
		}
		text, err := v.c.keyText(v.t, key)
		if err != nil {
			return nil, err
		}
		raw, err := v.c.run.remove(v.t, text)
		if err != nil {
			return nil, err
		}
		return v.c.vals.read(raw)
	},
}

func (v *tableValue) Attr(name string) (starlark.Value, error) {
	method := tableMethods[name]
	if method == nil {
		return nil, nil
	}
	return starlark.NewBuiltin(name, func(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		return method(v, t, args, kwargs)
	}), nil
}

func (v *tableValue) AttrNames() []string {
	return []string{"delete", "find", "first", "get", "insert", "items", "keys", "put", "rows", "update", "where"}
}

// list collects what pick makes of each row; nil is left out.
func (v *tableValue) list(pick func(key, row starlark.Value) (starlark.Value, error)) (starlark.Value, error) {
	// Rows are gathered first: pick may change the table.
	type item struct {
		key string
		row []byte
	}
	var items []item
	var err error
	v.c.run.each(v.t, func(_ int, key, row []byte) bool {
		items = append(items, item{string(key), row})
		err = v.c.charge(64 + len(key))
		return err == nil
	})
	if err != nil {
		return nil, err
	}
	var list []starlark.Value
	for _, it := range items {
		key, err := v.c.vals.read([]byte(it.key))
		if err != nil {
			return nil, err
		}
		row, err := v.c.vals.read(it.row)
		if err != nil {
			return nil, err
		}
		picked, err := pick(key, row)
		if err != nil {
			return nil, err
		}
		if picked != nil {
			list = append(list, picked)
		}
	}
	return starlark.NewList(list), nil
}

func (v *tableValue) find(name string, args starlark.Tuple, kwargs []starlark.Tuple, one bool) (starlark.Value, error) {
	if len(args) > 0 || len(kwargs) == 0 {
		return nil, fmt.Errorf("%s: name the fields, as in %s(status=\"open\")", name, name)
	}
	var names []string
	var values []starlark.Value
	for _, kw := range kwargs {
		names = append(names, string(kw[0].(starlark.String)))
		values = append(values, kw[1])
	}
	found, err := v.c.match(v.t, names, values)
	if err != nil {
		return nil, err
	}
	var rows []starlark.Value
	for _, n := range found {
		_, raw := v.c.run.at(v.t, n)
		row, err := v.c.vals.read(raw)
		if err != nil {
			return nil, err
		}
		if one {
			return row, nil
		}
		rows = append(rows, row)
	}
	if one {
		return starlark.None, nil
	}
	return starlark.NewList(rows), nil
}

// match are the numbers of the rows whose fields have these values.
func (c *call) match(t *table, names []string, values []starlark.Value) ([]int, error) {
	text, err := c.valuesText(values)
	if err != nil {
		return nil, err
	}
	return c.run.match(t, names, text), nil
}

// keyAndRow are the arguments of insert and put: a row, before it a key where it is
// outside of rows.
func (v *tableValue) keyAndRow(name string, args starlark.Tuple, kwargs []starlark.Tuple) (string, *starlark.Dict, error) {
	var key starlark.Value
	var row *starlark.Dict
	if !v.t.def.KeyOutside {
		return "", row, starlark.UnpackPositionalArgs(name, args, kwargs, 1, &row)
	}
	if err := starlark.UnpackPositionalArgs(name, args, kwargs, 2, &key, &row); err != nil {
		return "", nil, err
	}
	text, err := v.c.keyText(v.t, key)
	return text, row, err
}

func (c *call) insert(t *table, key string, row starlark.Value) (starlark.Value, error) {
	raw, err := c.vals.write(nil, row)
	if err != nil {
		return nil, err
	}
	if _, raw, err = c.run.insert(t, key, raw); err != nil {
		return nil, err
	}
	return c.vals.read(raw)
}

// update changes members of a row, and gives its bytes.
func (c *call) update(t *table, key string, changes *starlark.Dict) ([]byte, error) {
	raw, err := c.vals.write(nil, changes)
	if err != nil {
		return nil, err
	}
	return c.run.patch(t, key, raw)
}

// patch changes the members of a row that an object names.
func (r *Run) patch(t *table, key string, changes []byte) ([]byte, error) {
	_, row, ok := r.get(t, key)
	if !ok {
		return nil, violate("missing", "%s not found", key)
	}
	row = withMembers(row, membersOf(changes), false)
	return row, r.replace(t, key, row)
}
