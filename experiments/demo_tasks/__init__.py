"""The parts of `experiments/build_demo_data.py`: small image tasks cut from real pixels that pip packages ship."""
