package token

// RankOf and IDOf let tests state the merging rule by its definition.

func (v *Vocab) RankOf(left, right string) (int, bool) {
	m, ok := v.merges[pair{v.IDOf(left), v.IDOf(right)}]
	return int(m.rank), ok
}

func (v *Vocab) IDOf(text string) int32 {
	for id, b := range v.bytes {
		if string(b) == text && v.types[id] == Normal {
			return int32(id)
		}
	}
	return None
}

// Composes says whether text is put into Unicode's form NFC first: that, and not the
// text, is what ids stand for.
func (v *Vocab) Composes() bool { return v.compose }
