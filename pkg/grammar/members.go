package grammar

import (
	"math/big"
	"slices"
	"strconv"
)

// size reads a keyword that counts. Without it, it is none.
func (c *compiler) size(v *value, path, keyword string, none, most int) (int, error) {
	f := v.fields[keyword]
	if f == nil {
		return none, nil
	}
	r, err := parseNumber(f.text)
	if f.kind != "number" || err != nil || !r.IsInt() || r.Sign() < 0 {
		return 0, c.refuse(at(path, keyword), "must be a number from 0 on")
	}
	if r.Cmp(big.NewRat(int64(most), 1)) > 0 {
		if none < 0 { // an upper bound beyond all answers is none
			return none, nil
		}
		return 0, c.refuse(at(path, keyword), "is more than %d", most)
	}
	return int(r.Num().Int64()), nil
}

// sizes reads a pair of keywords; the second without a limit is -1.
func (c *compiler) sizes(v *value, path, low, high string) (least, most int, err error) {
	if least, err = c.size(v, path, low, 0, maxLeast); err != nil {
		return 0, 0, err
	}
	if most, err = c.size(v, path, high, -1, maxRepeats); err != nil {
		return 0, 0, err
	}
	if most >= 0 && least > most {
		return 0, 0, c.refuse(at(path, low), "is more than %s", high)
	}
	return least, most, nil
}

func (c *compiler) stringOf(v *value, path string, next int32) (int32, error) {
	least, most, err := c.sizes(v, path, "minLength", "maxLength")
	return c.text(least, most, next), err
}

func (c *compiler) arrayOf(v *value, path string, next int32) (int32, error) {
	least, most, err := c.sizes(v, path, "minItems", "maxItems")
	if err != nil {
		return 0, err
	}
	item := c.free()
	if items := v.fields["items"]; items != nil {
		if items.kind == "boolean" && !items.truth && least == 0 {
			return c.literal("[]", next), nil
		}
		if item, err = c.inside(items, at(path, "items")); err != nil {
			return 0, err
		}
	}
	return c.array(item, least, most, next), nil
}

func (c *compiler) objectOf(v *value, path string, next int32) (int32, error) {
	fields := v.fields["properties"]
	if fields == nil {
		fields = &value{kind: "object"}
	}
	if fields.kind != "object" {
		return 0, c.refuse(at(path, "properties"), "must be an object of schemas")
	}
	required, err := c.required(v, path)
	if err != nil {
		return 0, err
	}
	further, open, err := c.additional(v, path)
	if err != nil {
		return 0, err
	}
	var props []property
	names := slices.Clone(fields.names)
	for _, name := range required {
		if !slices.Contains(names, name) {
			if !open && v.fields["additionalProperties"] != nil {
				return 0, c.refuse(at(path, "required"), "names %.40q, which additionalProperties excludes", name)
			}
			names = append(names, name)
		}
	}
	for _, name := range names {
		rule := further
		if f := fields.fields[name]; f != nil {
			if rule, err = c.inside(f, at(at(path, "properties"), name)); err != nil {
				return 0, err
			}
		}
		key := c.newRule(func(ret int32) int32 { return c.literal(string(appendString(nil, name)), ret) })
		props = append(props, property{c.member(key, rule), slices.Contains(required, name)})
	}
	most, err := c.further(v, path, len(required), len(names))
	if err != nil {
		return 0, err
	}
	if !open {
		return c.object(props, 0, 0, next), nil
	}
	key := c.shared("name", func(ret int32) int32 { return c.text(0, -1, ret) })
	if len(names) > 0 {
		key = c.otherName(names)
	}
	return c.object(props, c.member(key, further), most, next), nil
}

// required reads the list of names that must be there.
func (c *compiler) required(v *value, path string) ([]string, error) {
	list := v.fields["required"]
	if list == nil {
		return nil, nil
	}
	path = at(path, "required")
	if list.kind != "array" {
		return nil, c.refuse(path, "must be a list of names")
	}
	var names []string
	for i, one := range list.items {
		if one.kind != "string" || slices.Contains(names, one.text) {
			return nil, c.refuse(at(path, strconv.Itoa(i)), "must be a name that is not there yet")
		}
		names = append(names, one.text)
	}
	return names, nil
}

// additional returns the rule of members that properties does not name, and
// whether there may be any. Where a schema with properties says nothing, there
// are none: answers keep to what was described.
func (c *compiler) additional(v *value, path string) (rule int32, open bool, err error) {
	a := v.fields["additionalProperties"]
	switch {
	case a == nil:
		return c.free(), v.fields["properties"] == nil, nil
	case a.kind == "boolean" && !a.truth:
		return 0, false, nil
	}
	rule, err = c.inside(a, at(path, "additionalProperties"))
	return rule, true, err
}

// further returns how many members there may be besides the named. Names of
// further members may repeat, so they do not count for a minimum.
func (c *compiler) further(v *value, path string, required, named int) (int, error) {
	least, most, err := c.sizes(v, path, "minProperties", "maxProperties")
	switch {
	case err != nil:
		return 0, err
	case least > required:
		return 0, c.refuse(at(path, "minProperties"), "is more than the names that are required")
	case most < 0:
		return -1, nil
	case most < named:
		return 0, c.refuse(at(path, "maxProperties"), "is less than the properties that are named")
	}
	return most - named, nil
}

func (c *compiler) numberOf(v *value, path string, whole bool, next int32) (int32, error) {
	var b bounds
	for _, k := range []struct {
		name string
		set  func(*big.Rat, bool)
		open bool
	}{
		{"minimum", b.raise, false}, {"exclusiveMinimum", b.raise, true},
		{"maximum", b.lower, false}, {"exclusiveMaximum", b.lower, true},
	} {
		f := v.fields[k.name]
		if f == nil {
			continue
		}
		r, err := parseNumber(f.text)
		if f.kind != "number" || err != nil {
			return 0, c.refuse(at(path, k.name), "must be a number of moderate size")
		}
		k.set(r, k.open)
	}
	if m := v.fields["multipleOf"]; m != nil && (!whole || m.text != "1") {
		return 0, c.refuse(at(path, "multipleOf"), "is not supported")
	}
	entry, ok := next, true
	switch {
	case !b.any() && whole:
		entry = c.integer(next)
	case !b.any():
		entry = c.number(next)
	case whole:
		entry, ok = c.integerIn(b, next)
	default:
		entry, ok = c.numberIn(b, next)
	}
	if !ok {
		return 0, c.refuse(path, "has bounds between which no number can be written")
	}
	return entry, nil
}
