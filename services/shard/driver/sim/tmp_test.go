package sim
import ("testing";"time")
func TestMargins(t *testing.T) {
	for _, p := range Profiles(4) {
		for _, n := range streams {
			for _, l := range []struct{load []Request; rows []int; most, until time.Duration}{
				{Streams(n, 16, 100_000), []int{1,2,4,8,16,32}, 0, 6*time.Second},
				{Streams(n, 256, 64), []int{4,8,16,32,64,128,256}, 2*target, 60*time.Second},
				{Streams(n, 256, 64), []int{4,8,16,32,64,128,256}, 0, 60*time.Second},
			} {
				best, _ := Best(p, l.load, l.rows, l.most, l.until)
				s := measure(t, p, Adaptive(4), l.load, l.until)
				t.Logf("%s %d: %.3f gap %v, %s %.1f", p.Name, n, s.Rate/best.Rate, s.Gap, best.Name, best.Rate)
			}
		}
	}
}
