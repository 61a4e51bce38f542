"""The bundled tests of a whole cluster, for the bundled examples or for one of your own.

    pytest --pyargs nomad_testkit.suite -m colocated
    pytest --pyargs nomad_testkit.suite -m separate
    pytest --pyargs nomad_testkit.suite -m "colocated or separate" -n 2

The last deploys both side by side. Fixtures in your conftest.py take the place of the plugin's, so that the tests run
against your own example; its sizes are what they demand.

    @pytest.fixture(scope="session")
    def nomad_example():
        return Example.load("my-cluster").replace(num_clients=3)
"""
