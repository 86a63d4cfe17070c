package place

// graph holds the orders in which seats may follow each other. Each path from
// the root is one: a node is a seat, and has room for as many stages as lie on
// the way to it. Nodes come after those that lead to them.
type graph struct {
	root  int // seat of the first node, which begins the pipeline
	nodes []gnode
}

// gnode is a seat at the end of some paths.
type gnode struct {
	seat   int
	stages int   // on the way here, this one counted; 0 where it does not matter
	from   []int // nodes that may come right before
}

// subsets is the graph of all orders of n seats that begin with root, of at
// most most stages: a node for each set of seats and the last of them. n is
// small.
func subsets(root, n, most int) *graph {
	g := &graph{root: root}
	at := make(map[[2]int]int) // set and last seat → node
	add := func(set, last, stages int, from []int) {
		at[[2]int{set, last}] = len(g.nodes)
		g.nodes = append(g.nodes, gnode{seat: last, stages: stages, from: from})
	}
	add(1<<root, root, 1, nil)
	for stages := 2; stages <= min(n, most); stages++ {
		for set := range 1 << n {
			if set>>root&1 == 0 || ones(set) != stages {
				continue
			}
			for last := range n {
				if last == root || set>>last&1 == 0 {
					continue
				}
				var from []int
				before := set &^ (1 << last)
				for s := range n {
					if i, ok := at[[2]int{before, s}]; ok {
						from = append(from, i)
					}
				}
				add(set, last, stages, from)
			}
		}
	}
	return g
}

func ones(set int) int {
	n := 0
	for ; set != 0; set &= set - 1 {
		n++
	}
	return n
}

// ordered is the graph of the parts of one order that begin with its first
// seat: seats may be left out. Stages are counted only where least or most
// restrict them.
func ordered(order []int, least, most int) *graph {
	n := len(order)
	g := &graph{root: order[0]}
	if least <= 1 && most >= n {
		for k, s := range order {
			node := gnode{seat: s}
			for before := range k {
				node.from = append(node.from, before)
			}
			g.nodes = append(g.nodes, node)
		}
		return g
	}
	var before []int // nodes with one stage less, by position
	for stages := 1; stages <= most; stages++ {
		now := make([]int, n)
		for k := range order {
			now[k] = -1
			if (k == 0) != (stages == 1) || k < stages-1 || n-k < least-stages+1 {
				continue
			}
			node := gnode{seat: order[k], stages: stages}
			for b := 0; b < k && stages > 1; b++ {
				if before[b] >= 0 {
					node.from = append(node.from, before[b])
				}
			}
			now[k] = len(g.nodes)
			g.nodes = append(g.nodes, node)
		}
		before = now
	}
	return g
}
