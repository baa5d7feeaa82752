package test

import (
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A testFinder knows the tests of the rooms below a folder.
type testFinder struct {
	root  string
	rooms map[string]*roomTests
}

type roomTests struct {
	tests   map[string]*ast.FuncDecl
	strings map[string]bool // what could be the name of a part
}

func newTestFinder(root string) *testFinder {
	return &testFinder{root, make(map[string]*roomTests)}
}

var testName = regexp.MustCompile(`^([a-z][a-z/]*)\.((?:Test|Fuzz|Example)[A-Za-z0-9_]*)(?:/(.+))?$`)

// find says what is wrong with a name like room.TestIt/part.
func (f *testFinder) find(name string) error {
	m := testName.FindStringSubmatch(name)
	if m == nil {
		return fmt.Errorf("%q is no name like room.TestIt or room.TestIt/part", name)
	}
	room, err := f.room(m[1])
	if err != nil {
		return err
	}
	test := room.tests[m[2]]
	switch {
	case test == nil:
		return fmt.Errorf("there is no test %s in %s", m[2], m[1])
	case alwaysSkips(test):
		return fmt.Errorf("%s is always skipped", name)
	case m[3] != "" && !room.strings[m[3]]:
		return fmt.Errorf("%s has no part %q: no string and no file of testdata is called so", m[2], m[3])
	}
	return nil
}

func (f *testFinder) room(name string) (*roomTests, error) {
	if r := f.rooms[name]; r != nil {
		return r, nil
	}
	dir := filepath.Join(f.root, filepath.FromSlash(name))
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("there is no room %q with tests", name)
	}
	r := &roomTests{make(map[string]*ast.FuncDecl), make(map[string]bool)}
	for _, file := range files {
		if err := r.add(dir, file); err != nil {
			return nil, err
		}
	}
	f.rooms[name] = r
	return r, filepath.WalkDir(filepath.Join(dir, "testdata"), func(path string, d os.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err == nil && !d.IsDir() {
			r.strings[strings.TrimSuffix(d.Name(), filepath.Ext(path))] = true
		}
		return err
	})
}

// add takes the tests of a file that is built here.
func (r *roomTests) add(dir, path string) error {
	if ok, err := build.Default.MatchFile(dir, filepath.Base(path)); err != nil || !ok {
		return err
	}
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	for _, d := range file.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
			r.tests[fn.Name.Name] = fn
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if s, err := strconv.Unquote(lit.Value); err == nil {
				r.strings[strings.TrimSpace(s)] = true
			}
		}
		return true
	})
	return nil
}

// alwaysSkips: a call to skip that stands under no condition.
func alwaysSkips(test *ast.FuncDecl) bool {
	return slices.ContainsFunc(test.Body.List, func(s ast.Stmt) bool {
		call, ok := s.(*ast.ExprStmt)
		if !ok {
			return false
		}
		expr, ok := call.X.(*ast.CallExpr)
		if !ok {
			return false
		}
		sel, ok := expr.Fun.(*ast.SelectorExpr)
		return ok && strings.HasPrefix(sel.Sel.Name, "Skip")
	})
}
