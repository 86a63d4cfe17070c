package strictjson

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestIDs(t *testing.T) {
	for doc, want := range map[string][][]int32{
		`{"x":[1,2.0,3e0]}`:       {{1, 2, 3}},
		`{"x":[[1],[2,3]]}`:       {{1}, {2, 3}},
		`{}`:                      nil,
		`{"x":[]}`:                nil,
		`{"x":[[1],[2],[]]}`:      nil, // and faults:
		`{"x":[1,"a"]}`:           nil,
		`{"x":[1,-1]}`:            nil,
		`{"x":[1,101]}`:           nil,
		`{"x":[1.5]}`:             nil,
		`{"x":[[1],2]}`:           nil,
		`{"x":[[1],[2],[3],[4]]}`: nil,
	} {
		r := read(t, doc)
		got := r.IDs("x", 3, 100)
		if r.Err() != nil {
			got = nil
		} else if want == nil && len(got) > 0 {
			t.Errorf("%s: no fault", doc)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", doc, diff)
		}
	}
}
