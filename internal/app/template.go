package app

import "sallyport/internal/config"

// Template is the files of a new project directory, with the schemas that their
// first lines name.
func Template(name string) (map[string]string, error) {
	files, err := config.Init(name)
	if err != nil {
		return nil, err
	}
	for _, kind := range config.Kinds() {
		raw, err := config.JSONSchema(kind)
		if err != nil {
			return nil, err
		}
		files[".sallyport/schema/"+kind+".json"] = string(raw) + "\n"
	}
	return files, nil
}
