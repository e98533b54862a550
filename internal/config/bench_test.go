package config

import "testing"

func BenchmarkLoad(b *testing.B) {
	for _, info := range Templates() {
		b.Run(info.Name, func(b *testing.B) {
			files := project(template(b, info.Name))
			for b.Loop() {
				if _, problems := Load(files); problems != nil {
					b.Fatal(problems)
				}
			}
		})
	}
}

func BenchmarkDiff(b *testing.B) {
	v := load(b, template(b, "support")).Versions()
	for b.Loop() {
		if len(Diff(v, v)) > 0 {
			b.Fatal("changes")
		}
	}
}
