package strictjson

import "fmt"

// Elements returns the kind of the first element of an array, Null when the
// member is absent, empty or no array. It does not count as reading it.
func (r *Reader) Elements(name string) Kind {
	if v := r.members[name]; v.kind == Array && len(v.items) > 0 {
		return v.items[0].kind
	}
	return Null
}

// IDs reads an array of whole numbers from 0 to most, or an array of at most
// count such arrays. None may be empty.
func (r *Reader) IDs(name string, count int, most int64) [][]int32 {
	if r.Elements(name) == Number {
		v, _ := r.take(name, Array)
		return [][]int32{r.ids(name, v, most)}
	}
	v, ok := r.take(name, Array)
	if !ok {
		return nil
	}
	if len(v.items) > count {
		r.Fail(name, fmt.Sprintf("has more than %d items", count))
		return nil
	}
	var lists [][]int32
	for i, item := range v.items {
		lists = append(lists, r.ids(fmt.Sprintf("%s[%d]", name, i), item, most))
	}
	return lists
}

func (r *Reader) ids(at string, v Value, most int64) []int32 {
	if v.kind != Array || len(v.items) == 0 {
		r.Fail(at, "must be a non-empty array of token ids")
		return nil
	}
	list := make([]int32, len(v.items))
	for i, item := range v.items {
		n, ok := whole(item)
		if !ok || n < 0 || n > most {
			r.Fail(fmt.Sprintf("%s[%d]", at, i), fmt.Sprintf("must be a token id from 0 to %d", most))
			return nil
		}
		list[i] = int32(n)
	}
	return list
}
