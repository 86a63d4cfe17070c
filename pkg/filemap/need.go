package filemap

// pageBytes is the smallest page of the systems that files are mapped on.
const pageBytes = 4 << 10

// Need has the system read bytes of a mapped file that will be needed soon, and returns
// once they are in memory. Where the system can be asked for that, no thread that
// computes waits for the disk. Other bytes than mapped ones are left as they are.
func Need(data []byte) {
	if len(data) == 0 || ask(data) {
		return
	}
	sum := byte(0)
	for i := 0; i < len(data); i += pageBytes {
		sum += data[i]
	}
	_ = sum + data[len(data)-1]
}
