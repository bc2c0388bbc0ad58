"""Small image tasks cut from real pixels, as npz files; README.md says from where, and under which licences."""
