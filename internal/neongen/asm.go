package neongen

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"log"
	"os"
	"strings"
)

// V is a vector register.
type V int

// R is a general register.
type R int

// String returns the name by which Go's assembler knows the register.
func (r R) String() string { return fmt.Sprintf("R%d", int(r)) }

// String returns the name by which loads and stores know the register.
func (v V) String() string { return fmt.Sprintf("F%d", int(v)) }

// general are the registers that a function may use: not those of the linker
// (16, 17, 27), of the platform (18), of the goroutine (28), of frames (29) and
// of the return address (30).
var general = [...]R{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 19, 20, 21, 22, 23, 24, 25, 26}

// vectors is the number of vector registers, all of which a function may use.
const vectors = 32

// Asm writes the functions of one package: their assembly and their Go stubs.
// Registers are taken in order and given back by Scope. It panics where a
// function cannot be written: generators have no one else to tell.
type Asm struct {
	text, stubs bytes.Buffer
	function    string
	offsets     map[string]int // of the function's arguments and result
	v, r        int            // registers taken
}

// Func starts a function. signature is a Go function type, such as
// "func(x *float32, n int) float32", whose result is called ret; doc follows the
// name in its comment; frame is the bytes of local memory.
func (a *Asm) Func(name, signature, doc string, frame int) {
	a.function, a.v, a.r = name, 0, 0
	size := a.layOut(signature)
	fmt.Fprintf(&a.text, "\n// func %s%s\nTEXT ·%s(SB), NOSPLIT, $%d-%d\n",
		name, strings.TrimPrefix(signature, "func"), name, frame, size)
	fmt.Fprintf(&a.stubs, "\n// %s %s with NEON.\n//\n//go:noescape\nfunc %s%s\n",
		name, doc, name, strings.TrimPrefix(signature, "func"))
}

// layOut notes where arguments and the result lie, and returns the bytes of all.
// Types are pointers, int and float32.
func (a *Asm) layOut(signature string) int {
	expr, err := parser.ParseExpr(signature)
	if err != nil {
		panic(fmt.Sprintf("neongen: %s: %v", a.function, err))
	}
	a.offsets = map[string]int{}
	at := 0
	place := func(name string, kind ast.Expr) {
		size := 8
		if id, ok := kind.(*ast.Ident); ok && id.Name == "float32" {
			size = 4
		}
		at = (at + size - 1) / size * size
		a.offsets[name] = at
		at += size
	}
	signed := expr.(*ast.FuncType)
	for _, field := range signed.Params.List {
		for _, name := range field.Names {
			place(name.Name, field.Type)
		}
	}
	if signed.Results != nil {
		at = (at + 7) / 8 * 8
		place("ret", signed.Results.List[0].Type)
	}
	return at
}

// Vec takes a vector register.
func (a *Asm) Vec() V {
	if a.v == vectors {
		panic(fmt.Sprintf("neongen: %s needs more than %d vector registers", a.function, vectors))
	}
	a.v++
	return V(a.v - 1)
}

// Vecs takes n vector registers.
func (a *Asm) Vecs(n int) []V {
	all := make([]V, n)
	for i := range all {
		all[i] = a.Vec()
	}
	return all
}

// Reg takes a general register.
func (a *Asm) Reg() R {
	if a.r == len(general) {
		panic(fmt.Sprintf("neongen: %s needs more than %d general registers", a.function, len(general)))
	}
	a.r++
	return general[a.r-1]
}

// Scope runs body and gives back the registers it took.
func (a *Asm) Scope(body func()) {
	v, r := a.v, a.r
	body()
	a.v, a.r = v, r
}

// Do writes an instruction that Go's assembler knows.
func (a *Asm) Do(format string, args ...any) {
	fmt.Fprintf(&a.text, "\t"+format+"\n", args...)
}

// Label names the place of the next instruction, within the function.
func (a *Asm) Label(name string) { fmt.Fprintf(&a.text, "%s:\n", name) }

// Arg loads a pointer or an int.
func (a *Asm) Arg(name string) R {
	r := a.Reg()
	a.Do("MOVD %s, %v", a.place(name), r)
	return r
}

// Spread loads a float32 argument into each lane.
func (a *Asm) Spread(name string) V {
	v := a.Vec()
	a.Do("FMOVS %s, %v", a.place(name), v)
	a.DUP(v, v, 0)
	return v
}

// Return stores lane 0 of v as the result and returns.
func (a *Asm) Return(v V) {
	a.Do("FMOVS %v, %s", v, a.place("ret"))
	a.Do("RET")
}

func (a *Asm) place(name string) string {
	at, ok := a.offsets[name]
	if !ok {
		panic(fmt.Sprintf("neongen: %s has no argument %s", a.function, name))
	}
	return fmt.Sprintf("%s+%d(FP)", name, at)
}

// Constant returns a register with 32 bits of x in each lane.
func (a *Asm) Constant(x uint32) V {
	v := a.Vec()
	a.Scope(func() {
		r := a.Reg()
		a.Do("MOVW $%#x, %v", x, r)
		a.DUPGeneral(v, r)
	})
	return v
}

// Down counts a register down and jumps while it is not zero.
func (a *Asm) Down(count R, label string) {
	a.Do("SUBS $1, %v, %v", count, count)
	a.Do("BNE %s", label)
}

// LoadQ, LoadD and LoadS load 16, 8 and 4 bytes; what is above them becomes zero.
func (a *Asm) LoadQ(v V, base R, offset int) { a.Do("FMOVQ %d(%v), %v", offset, base, v) }

// LoadD loads 8 bytes (see LoadQ).
func (a *Asm) LoadD(v V, base R, offset int) { a.Do("FMOVD %d(%v), %v", offset, base, v) }

// LoadS loads 4 bytes (see LoadQ).
func (a *Asm) LoadS(v V, base R, offset int) { a.Do("FMOVS %d(%v), %v", offset, base, v) }

// StoreQ stores 16 bytes.
func (a *Asm) StoreQ(v V, base R, offset int) { a.Do("FMOVQ %v, %d(%v)", v, offset, base) }

// StoreS stores the lowest 4 bytes.
func (a *Asm) StoreS(v V, base R, offset int) { a.Do("FMOVS %v, %d(%v)", v, offset, base) }

// Generate writes the files that the flags -out and -stubs name, for the package
// that -pkg names.
func (a *Asm) Generate() {
	out := flag.String("out", "", "assembly to write")
	stubs := flag.String("stubs", "", "declarations to write")
	pkg := flag.String("pkg", "", "package of the declarations")
	flag.Parse()
	head := "// Code generated by go generate from asm_neon*.go. DO NOT EDIT.\n\n"
	declarations, err := format.Source([]byte(head + "package " + *pkg + "\n" + a.stubs.String()))
	if err != nil {
		log.Fatalf("format %s: %v", *stubs, err)
	}
	files := map[string][]byte{
		*out:   []byte(head + "#include \"textflag.h\"\n" + a.text.String()),
		*stubs: declarations,
	}
	for name, data := range files {
		if err := os.WriteFile(name, data, 0o644); err != nil {
			log.Fatalf("write the kernels: %v", err)
		}
	}
}
