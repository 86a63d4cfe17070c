package strictjson

import (
	"fmt"
	"math"
	"strconv"
)

// Reader reads the members of one object by type and range. It keeps the first
// fault, after which the values it returns mean nothing: the caller reads all it
// knows and then asks Err once. A member that is null counts as absent.
// A Reader and those made from it belong to one goroutine.
type Reader struct {
	path    string
	members map[string]Value
	order   []string
	read    map[string]bool
	fault   *fault
}

// fault is shared by a reader and the readers of its members.
type fault struct{ err *Error }

// Read returns a reader of the members of v, the whole request.
func Read(v Value) (*Reader, error) {
	if v.kind != Object {
		return nil, &Error{Why: fmt.Sprintf("must be an object, not %s", v.kind)}
	}
	return newReader("", v, &fault{}), nil
}

func newReader(path string, v Value, f *fault) *Reader {
	r := &Reader{path: path, members: make(map[string]Value, len(v.members)), read: map[string]bool{}, fault: f}
	for _, m := range v.members {
		r.members[m.name] = m.value
		r.order = append(r.order, m.name)
	}
	return r
}

// Err returns the first fault of this reader and of all readers made from it,
// an *Error. Without one it returns the first member that nobody read.
func (r *Reader) Err() error {
	r.Close()
	if r.fault.err != nil {
		return r.fault.err
	}
	return nil
}

// Close records the first member of this object that was not read as a fault.
func (r *Reader) Close() {
	for _, name := range r.order {
		if !r.read[name] && r.fault.err == nil {
			r.fault.err = &Error{Param: join(r.path, name), Why: "is not an option known here", Unknown: true}
		}
	}
}

// Fail records that a member is wrong. why completes a sentence that begins
// with the member's name.
func (r *Reader) Fail(name, why string) {
	if r.fault.err == nil {
		r.fault.err = &Error{Param: r.Param(name), Why: why}
	}
}

// Refuse records that a member asks for something that is not offered.
func (r *Reader) Refuse(name, why string) {
	if r.fault.err == nil {
		r.fault.err = &Error{Param: r.Param(name), Why: why, Unknown: true}
	}
}

// Param returns the full path of a member.
func (r *Reader) Param(name string) string { return join(r.path, name) }

// Has reports whether the member is there and not null. It does not count as
// reading it.
func (r *Reader) Has(name string) bool { return r.members[name].kind != Null }

// Kind returns the kind of a member, Null when it is absent.
func (r *Reader) Kind(name string) Kind { return r.members[name].kind }

// take returns a member of the wanted kind.
func (r *Reader) take(name string, want Kind) (Value, bool) {
	r.read[name] = true
	v := r.members[name]
	if v.kind == Null {
		return v, false
	}
	if v.kind != want {
		r.Fail(name, fmt.Sprintf("must be %s, not %s", want, v.kind))
		return v, false
	}
	return v, true
}

// String reads a string of at most max bytes.
func (r *Reader) String(name string, max int) (string, bool) {
	v, ok := r.take(name, String)
	if ok && len(v.text) > max {
		r.Fail(name, fmt.Sprintf("is longer than %d bytes", max))
		return "", false
	}
	return v.text, ok
}

// Bool reads a boolean.
func (r *Reader) Bool(name string) (value, ok bool) {
	v, ok := r.take(name, Bool)
	return v.truth, ok
}

// Float reads a number from lo to hi.
func (r *Reader) Float(name string, lo, hi float64) (float64, bool) {
	v, ok := r.take(name, Number)
	if !ok {
		return 0, false
	}
	x, err := strconv.ParseFloat(v.text, 64)
	if err != nil || x < lo || x > hi {
		r.Fail(name, fmt.Sprintf("must be a number from %v to %v", lo, hi))
		return 0, false
	}
	return x + 0, true // + 0 turns -0 into 0
}

// Int reads a whole number from lo to hi; 5.0 and 5e0 are whole.
func (r *Reader) Int(name string, lo, hi int64) (int64, bool) {
	v, ok := r.take(name, Number)
	if !ok {
		return 0, false
	}
	n, ok := whole(v)
	if !ok || n < lo || n > hi {
		r.Fail(name, fmt.Sprintf("must be a whole number from %d to %d", lo, hi))
		return 0, false
	}
	return n, true
}

// whole returns a number without a fraction.
func whole(v Value) (int64, bool) {
	if v.kind != Number {
		return 0, false
	}
	if n, err := strconv.ParseInt(v.text, 10, 64); err == nil {
		return n, true
	}
	x, err := strconv.ParseFloat(v.text, 64)
	if err != nil || x != math.Trunc(x) || math.Abs(x) > 1<<53 {
		return 0, false
	}
	return int64(x), true
}

// Bits reads a whole number of 64 bits, signed or not, as its bits.
func (r *Reader) Bits(name string) (uint64, bool) {
	v, ok := r.take(name, Number)
	if !ok {
		return 0, false
	}
	if n, err := strconv.ParseUint(v.text, 10, 64); err == nil {
		return n, true
	}
	if n, err := strconv.ParseInt(v.text, 10, 64); err == nil {
		return uint64(n), true
	}
	r.Fail(name, "must be a whole number of at most 64 bits")
	return 0, false
}

// Strings reads one string, or an array of at most count strings, each of 1 to
// max bytes.
func (r *Reader) Strings(name string, count, max int) []string {
	if r.Kind(name) == String {
		text, ok := r.String(name, max)
		if ok && text == "" {
			r.Fail(name, "must not be an empty string")
		}
		return []string{text}
	}
	v, ok := r.take(name, Array)
	if !ok {
		return nil
	}
	if len(v.items) > count {
		r.Fail(name, fmt.Sprintf("has more than %d strings", count))
		return nil
	}
	var list []string
	for i, item := range v.items {
		at := fmt.Sprintf("%s[%d]", name, i)
		switch {
		case item.kind != String:
			r.Fail(at, fmt.Sprintf("must be a string, not %s", item.kind))
		case item.text == "":
			r.Fail(at, "must not be an empty string")
		case len(item.text) > max:
			r.Fail(at, fmt.Sprintf("is longer than %d bytes", max))
		}
		list = append(list, item.text)
	}
	return list
}

// Objects reads an array of at most count objects and returns a reader of each.
// The caller closes the readers.
func (r *Reader) Objects(name string, count int) []*Reader {
	v, ok := r.take(name, Array)
	if !ok {
		return nil
	}
	if len(v.items) > count {
		r.Fail(name, fmt.Sprintf("has more than %d items", count))
		return nil
	}
	var list []*Reader
	for i, item := range v.items {
		at := fmt.Sprintf("%s[%d]", name, i)
		if item.kind != Object {
			r.Fail(at, fmt.Sprintf("must be an object, not %s", item.kind))
			return nil
		}
		list = append(list, newReader(r.Param(at), item, r.fault))
	}
	return list
}

// Object reads an object. The caller closes its reader. Absent: nil.
func (r *Reader) Object(name string) *Reader {
	v, ok := r.take(name, Object)
	if !ok {
		return nil
	}
	return newReader(r.Param(name), v, r.fault)
}

// Names returns the names of all members in the order of the document.
func (r *Reader) Names() []string { return r.order }

// Empty reads members that may only be null, false or empty: those that clients
// send by habit and that ask for nothing.
func (r *Reader) Empty(names ...string) {
	for _, name := range names {
		r.read[name] = true
		v := r.members[name]
		if v.truth || v.text != "" || len(v.items) > 0 || len(v.members) > 0 {
			r.Refuse(name, "is not supported here")
		}
	}
}
